"""Open files and versions that arrive, go or change their form meanwhile."""

from tests.support.judging import Group


def test_a_file_opened_between_a_deletion_and_its_publication_can_be_saved():
    group = Group()
    a, b = group.people
    a.write("f", b"base")
    group.meet()
    b.write("f", b"edit")
    a.unlink("f")
    a.computer.receive_from(b.computer)
    assert a.content("f") == b"edit"
    fh = a.computer.open("f")
    a.computer.commit()
    a.computer.fs.write(fh, 0, b"more")
    a.computer.close(fh)
    group.ledger.write(b"edit", b"more")
    assert group.judge() == {"f": b"more"}


def test_attributes_set_on_a_new_open_file_do_not_part_it_from_its_versions():
    group = Group()
    a, _ = group.people
    a.write("f", b"one")
    fh = a.computer.open("f")
    a.computer.chmod("f", 0o600)
    a.computer.commit()
    a.computer.fs.write(fh, 0, b"two")
    a.computer.close(fh)
    group.ledger.write(b"one", b"two")
    assert group.judge() == {"f": b"two"}


def test_deleting_what_an_open_file_hides_leaves_the_newer_version():
    group = Group()
    a, b = group.people
    a.write("f", b"base")
    a.write("g", b"tmp")
    group.meet()
    for path, content in (("f", b"news"), ("g", b"new tmp")):
        fh = a.computer.open(path)
        b.write(path, content)
        a.computer.receive_from(b.computer)
        assert a.content(path) != content, "an open file shows what it was opened on"
        a.unlink(path)
        a.computer.fs.release(fh)
    assert group.judge() == {"f": b"news", "g": b"new tmp"}


def test_replacing_what_an_open_file_hides_leaves_both_versions():
    group = Group()
    a, b = group.people
    a.write("f", b"base")
    group.meet()
    fh = a.computer.open("f")
    b.write("f", b"news")
    a.computer.receive_from(b.computer)
    a.write("tmp", b"mine")
    a.rename("tmp", "f")
    a.computer.fs.release(fh)
    assert sorted(group.judge().values()) == [b"mine", b"news"]


def test_saving_after_the_conflict_copy_was_edited_takes_nothing_along():
    group = Group()
    a, b = group.people
    a.write("f", b"base")
    group.meet()
    a.write("f", b"mine")
    b.write("f", b"theirs")
    fh = a.computer.open("f")
    a.computer.receive_from(b.computer)
    a.write(a.copy_of("f"), b"mine, edited")
    a.computer.fs.write(fh, 0, b"MINE")
    a.computer.close(fh)
    group.ledger.write(b"mine", b"MINE")
    assert sorted(group.judge().values()) == [b"MINE", b"mine, edited", b"theirs"]


def test_a_link_that_was_never_published_goes_with_its_file():
    group = Group()
    a, b = group.people
    a.write("f", b"base")
    group.meet()
    a.computer.mkdir("d")
    a.computer.link("f", "d/g")
    a.remove_tree("d")
    a.unlink("f")
    b.write("f", b"edit")
    assert group.judge() == {"f": b"edit"}


def test_names_removed_at_once_do_not_take_a_version_along_that_an_open_file_hid():
    group = Group()
    a, b = group.people
    a.write("f", b"base")
    a.computer.link("f", "g")
    group.meet()
    fh = a.computer.open("f")
    b.write("g", b"news")
    a.computer.receive_from(b.computer)
    assert a.content("f") == b"base", "an open file shows what it was opened on"
    a.unlink("f")
    b.unlink("g")
    a.computer.close(fh)
    assert list(group.judge().values()) == [b"news"]


def test_a_name_is_removed_while_the_file_is_open_and_news_come_by_another():
    for flags in (0, 2):
        group = Group()
        a, b = group.people
        a.write("f", b"base")
        a.computer.link("f", "g")
        group.meet()
        fh = a.computer.open("f", flags)
        a.unlink("f")
        b.write("g", b"news")
        a.computer.receive_from(b.computer)
        assert a.content("g") == (b"base" if flags else b"news")
        a.computer.close(fh)
        assert a.content("g") == b"news"
        assert group.judge() == {"g": b"news"}
