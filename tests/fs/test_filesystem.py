"""The file system over a real store, without a kernel: what each call does and refuses."""

import os
import random

import pytest

from piperfs.core.errors import ErrorKind, FsError
from piperfs.fs.api import ROOT_INO, SetAttr
from piperfs.store.changes import ChangeSet
from tests.support.computers import O_RDONLY, O_RDWR, ROOT_USER, Computer, exchange


@pytest.fixture
def computer() -> Computer:
    return Computer("a")


def refused(kind: ErrorKind):
    return pytest.raises(FsError, match=kind.value)


def test_written_bytes_are_read_back(computer):
    computer.write("f", b"hello")
    assert computer.read("f") == b"hello"
    assert computer.stat("f").size == 5


def test_contents_survive_a_restart(computer):
    computer.mkdir("d")
    data = os.urandom(3_000_000)
    computer.write("d/f", data)
    computer.symlink(b"d/f", "l")
    before = computer.tree()
    numbers = computer.stat("d/f").ino
    computer.commit()
    computer.start()
    assert computer.tree() == before
    assert computer.stat("d/f").ino == numbers
    assert computer.read("d/f") == data


def test_unlinked_file_stays_readable_while_open(computer):
    computer.write("f", b"old")
    fh = computer.open("f")
    computer.unlink("f")
    assert not computer.exists("f")
    computer.fs.write(fh, 3, b"er")
    assert computer.fs.read(fh, 0, 10) == b"older"
    computer.close(fh)


def test_rename_over_a_file_keeps_its_inode(computer):
    computer.write("f", b"one")
    computer.commit()
    reader = computer.open("f", O_RDONLY)
    computer.write("f.new", b"two")
    moved = computer.stat("f.new").ino
    computer.rename("f.new", "f")
    assert computer.listdir() == ["f"]
    assert computer.read("f") == b"two"
    assert computer.stat("f").ino == moved
    assert computer.fs.read(reader, 0, 10) == b"one"
    computer.fs.release(reader)
    computer.commit()
    computer.start()
    assert computer.read("f") == b"two"
    assert computer.stat("f").ino == moved


def test_hard_links_share_content(computer):
    computer.write("a", b"1")
    computer.link("a", "b")
    assert computer.stat("a").nlink == 2
    computer.write("b", b"22")
    assert computer.read("a") == b"22"
    computer.unlink("a")
    assert computer.read("b") == b"22"
    assert computer.stat("b").nlink == 1


def test_rename_onto_own_hard_link_does_nothing(computer):
    computer.write("a", b"1")
    computer.link("a", "b")
    computer.rename("a", "b")
    assert computer.listdir() == ["a", "b"]


def test_exchange_swaps_two_names(computer):
    computer.write("a", b"1")
    computer.mkdir("b")
    computer.rename("a", "b", 2)
    assert computer.read("b") == b"1"
    assert computer.listdir("a") == []


def test_directory_cannot_move_below_itself(computer):
    computer.mkdir("d")
    computer.mkdir("d/e")
    with refused(ErrorKind.INVALID):
        computer.rename("d", "d/e/f")


def test_full_directory_is_not_removed(computer):
    computer.mkdir("d")
    computer.write("d/f", b"")
    with refused(ErrorKind.NOT_EMPTY):
        computer.rmdir("d")
    computer.unlink("d/f")
    computer.rmdir("d")
    assert computer.listdir() == []


def test_truncation_and_extension(computer):
    computer.write("f", b"abcdef")
    ino = computer.stat("f").ino
    computer.fs.setattr(ino, SetAttr(size=3), None, ROOT_USER)
    computer.fs.setattr(ino, SetAttr(size=5), None, ROOT_USER)
    assert computer.read("f") == b"abc\0\0"


def test_times_set_by_hand_survive_close(computer):
    fh = computer.create("f")
    computer.fs.write(fh, 0, b"x")
    computer.utime("f", -5)
    computer.close(fh)
    assert computer.stat("f").mtime_ns == -5
    computer.utime("f", 7)
    assert computer.stat("f").mtime_ns == 7


def test_stat_before_and_after_close_agree(computer):
    fh = computer.create("f")
    computer.fs.write(fh, 0, b"x")
    before = computer.stat("f")
    computer.close(fh)
    assert computer.stat("f") == before
    computer.commit()
    assert computer.stat("f") == before


def test_xattrs_are_kept_and_limited(computer):
    computer.write("f", b"")
    ino = computer.stat("f").ino
    computer.fs.setxattr(ino, b"user.a", b"1", 0, ROOT_USER)
    assert computer.fs.getxattr(ino, b"user.a") == b"1"
    assert computer.fs.listxattr(ino, ROOT_USER) == [b"user.a"]
    with refused(ErrorKind.EXISTS):
        computer.fs.setxattr(ino, b"user.a", b"1", 1, ROOT_USER)
    computer.fs.removexattr(ino, b"user.a")
    with refused(ErrorKind.NO_ATTRIBUTE):
        computer.fs.getxattr(ino, b"user.a")


def test_holes_are_found(computer):
    fh = computer.create("f")
    computer.fs.write(fh, 1 << 40, b"end")
    computer.close(fh)
    fh = computer.open("f", O_RDONLY)
    assert computer.fs.seek(fh, 0, 3) == 1 << 40
    assert computer.fs.seek(fh, 0, 4) == 0
    assert computer.stat("f").blocks == 1


def test_holes_are_data_while_somebody_may_have_mapped_the_file(computer):
    fh = computer.create("f")
    computer.fs.write(fh, 1 << 40, b"end")
    computer.flush(fh)
    reader = computer.open("f", O_RDONLY)
    for each in (fh, reader):
        assert computer.fs.seek(each, 5, 3) == 5
        assert computer.fs.seek(each, 5, 4) == (1 << 40) + 3
        with refused(ErrorKind.NO_DATA_BEYOND):
            computer.fs.seek(each, (1 << 40) + 3, 3)
    computer.close(fh)
    assert computer.fs.seek(reader, 5, 3) == 1 << 40


def test_random_writes_match_a_plain_buffer(computer):
    for seed in range(8):
        rng = random.Random(seed)
        expected = bytearray()
        fh = computer.create(f"f{seed}")
        for _ in range(60):
            _random_step(computer, fh, f"f{seed}", expected, rng)
            assert computer.stat(f"f{seed}").size == len(expected)
        assert computer.fs.read(fh, 0, 1 << 30) == expected
        computer.close(fh)
        assert computer.read(f"f{seed}") == expected


def _random_step(computer, fh, path, expected, rng):
    choice = rng.randrange(10)
    offset = rng.randrange(600_000)
    if choice < 6:
        data = rng.randbytes(rng.choice((10, 5000, 200_000)))
        expected.extend(bytes(max(0, offset + len(data) - len(expected))))
        expected[offset : offset + len(data)] = data
        computer.fs.write(fh, offset, data)
    elif choice == 6:
        del expected[offset:]
        expected.extend(bytes(offset - len(expected)))
        computer.fs.setattr(computer.stat(path).ino, SetAttr(size=offset), fh, ROOT_USER)
    elif choice == 7:
        length = min(100_000, len(expected) - offset)
        if length > 0:
            expected[offset : offset + length] = bytes(length)
            computer.fs.fallocate(fh, 3, offset, length)
    elif choice == 8:
        computer.flush(fh)
    else:
        part = slice(offset, offset + 50_000)
        assert computer.fs.read(fh, offset, 50_000) == bytes(expected[part])


def test_writes_during_a_flush_are_kept(computer):
    fh = computer.create("f")
    ino = computer.stat("f").ino
    computer.fs.write(fh, 0, b"a" * 300_000)
    flush = computer.fs.begin_flush(ino)
    computer.fs.write(fh, 100, b"later")
    flush.execute()
    computer.fs.finish_flush(ino, flush)
    assert computer.fs.read(fh, 98, 9) == b"aalateraa"
    computer.close(fh)
    assert computer.read("f")[98:107] == b"aalateraa"


def test_a_version_holds_what_was_there_when_its_flush_began(computer):
    """And no hole in the place of what was appended meanwhile: a crash would leave it."""
    fh = computer.create("f")
    ino = computer.stat("f").ino
    computer.fs.write(fh, 0, b"a" * 300_000)
    flush = computer.fs.begin_flush(ino)
    computer.fs.write(fh, 300_000, b"later")
    flush.execute()
    computer.fs.finish_flush(ino, flush)
    inode = computer.fs._inodes.get(ino).inode
    assert computer.store.contents(inode)[0].body.size == 300_000
    computer.close(fh)
    assert computer.read("f") == b"a" * 300_000 + b"later"


def test_whoever_flushes_a_forgotten_file_finds_nothing_to_do(computer):
    """What runs in the background may come after the last close, unlink and forget."""
    fh = computer.create("f")
    ino = computer.stat("f").ino
    computer.fs.write(fh, 0, b"a")
    computer.close(fh)
    computer.fs.unlink(ROOT_INO, b"f")
    computer.fs.forget(ino, 1 << 30)
    assert computer.fs.begin_flush(ino) is None
    assert computer.fs.dirty_bytes(ino) == 0


def test_copied_range_shares_chunks(computer):
    data = os.urandom(2_000_000)
    computer.write("a", data)
    source, target = computer.open("a"), computer.create("b")
    assert computer.fs.copy_range(source, 0, target, 0, 1 << 30) == len(data)
    before = computer.store.chunks.uncommitted_bytes
    computer.close(target)
    computer.close(source)
    assert computer.read("b") == data
    assert computer.store.chunks.uncommitted_bytes == before


def test_two_computers_agree():
    a, b = Computer("a"), Computer("b")
    a.mkdir("d")
    a.write("d/f", os.urandom(500_000))
    a.chmod("d/f", 0o600)
    exchange(a, b)
    assert a.tree() == b.tree()
    b.rename("d/f", "g")
    b.write("g", b"new", append=True)
    exchange(a, b)
    assert a.tree() == b.tree()
    assert a.store.digest() == b.store.digest()


def conflicted() -> tuple[Computer, Computer]:
    a, b = Computer("a"), Computer("b")
    a.write("n.txt", b"base")
    exchange(a, b)
    a.write("n.txt", b"from a")
    b.write("n.txt", b"from b")
    exchange(a, b)
    return a, b


def test_concurrent_edits_show_both_versions():
    a, b = conflicted()
    assert a.tree() == b.tree()
    assert len(a.listdir()) == 2
    assert sorted(a.read(name) for name in a.listdir()) == [b"from a", b"from b"]


@pytest.mark.parametrize("deed", ["unlink", "edit", "rename", "replace", "edit original"])
def test_conflict_copy_can_be_worked_with(deed):
    a, b = conflicted()
    copy = next(name for name in a.listdir() if "conflict" in name)
    if deed == "unlink":
        a.unlink(copy)
        assert a.listdir() == ["n.txt"]
    elif deed == "edit":
        a.write(copy, b"edited")
        assert a.read(copy) == b"edited"
    elif deed == "rename":
        a.rename(copy, "other.txt")
        assert a.listdir() == ["n.txt", "other.txt"]
    elif deed == "replace":
        a.rename(copy, "n.txt")
        assert a.listdir() == ["n.txt"]
    else:
        a.write("n.txt", b"resolved")
        assert a.read("n.txt") == b"resolved"
        assert len(a.listdir()) == 2
    exchange(a, b)
    assert a.tree() == b.tree()
    assert list(a.store.conflicts()) == []


def test_open_writer_is_not_disturbed_by_a_remote_edit():
    a, b = Computer("a"), Computer("b")
    a.write("f", b"base")
    exchange(a, b)
    fh = a.open("f")
    b.write("f", b"remote")
    exchange(a, b)
    assert a.fs.read(fh, 0, 10) == b"base"
    a.fs.write(fh, 0, b"BASE")
    a.close(fh)
    exchange(a, b)
    assert a.tree() == b.tree()
    assert sorted(a.read(name) for name in a.listdir()) == [b"BASE", b"remote"]


def test_reader_follows_remote_appends():
    a, b = Computer("a"), Computer("b")
    a.write("log", b"1\n")
    exchange(a, b)
    fh = b.open("log", O_RDONLY)
    a.write("log", b"2\n", append=True)
    exchange(a, b)
    assert b.fs.read(fh, 0, 100) == b"1\n2\n"


def test_a_directory_that_moved_on_another_computer_is_listed_anew():
    a, b = Computer("a"), Computer("b")
    for path in ("left", "right", "left/sub", "left/stays"):
        a.mkdir(path)
    exchange(a, b)
    told = []
    b.store.on_change = told.append
    a.rename("left/sub", "right/sub")
    a.rename("left/stays", "left/stayed")
    exchange(a, b)
    node = b.fs._inodes.get(b.walk("right/sub").ino)
    assert set().union(*(changes.content for changes in told)) == {node.inode}


def test_full_disk_refuses_writes_and_lets_delete(computer):
    computer.write("f", b"x")
    computer.space = computer.space.__class__(100, 10, 0)
    with refused(ErrorKind.NO_SPACE):
        computer.create("g")
    computer.unlink("f")


@pytest.mark.parametrize("mode", [0, 1])
def test_space_is_asked_for_what_is_not_there_yet(computer, mode):
    fh = computer.create("f")
    computer.fs.write(fh, 0, bytes(6 << 20))
    computer.flush(fh)
    computer.commit()
    computer.space = computer.space.__class__(8 << 20, 3 << 20, 3 << 20)
    for offset in (0, 6 << 20):
        with refused(ErrorKind.NO_SPACE):
            computer.fs.fallocate(fh, mode, offset, 10 << 20)
    assert computer.stat("f").size == 6 << 20
    computer.fs.fallocate(fh, mode, 0, 8 << 20)
    with refused(ErrorKind.TOO_BIG):
        computer.fs.fallocate(fh, mode, (1 << 63) - 1, 1)
    computer.fs.fallocate(fh, 3, 0, 8 << 20)


def test_bytes_that_a_flush_works_on_need_room_too(computer):
    fh = computer.create("f")
    ino = computer.stat("f").ino
    computer.fs.write(fh, 0, bytes(2 << 20))
    flush = computer.fs.begin_flush(ino)
    computer.space = computer.space.__class__(8 << 20, 3 << 20, 3 << 20)
    with refused(ErrorKind.NO_SPACE):
        computer.fs.write(fh, 2 << 20, bytes(2 << 20))
    computer.fs.abandon_flush(ino, flush)
    with refused(ErrorKind.NO_SPACE):
        computer.fs.write(fh, 2 << 20, bytes(2 << 20))


def test_unnamed_file_can_be_linked(computer):
    _, opened = computer.fs.tmpfile(ROOT_INO, 0o644, 2, ROOT_USER)
    computer.fs.write(opened.fh, 0, b"tmp")
    ino = computer.fs._files.handle(opened.fh).node.ino
    computer.fs.link(ino, ROOT_INO, b"named")
    computer.close(opened.fh)
    assert computer.read("named") == b"tmp"


@pytest.mark.parametrize("size", [0, 3, 3 << 20])
@pytest.mark.parametrize("is_sealed_before", [False, True])
def test_an_unnamed_file_gets_its_bytes_with_its_name(computer, size, is_sealed_before):
    """All in one operation: after a crash there is all of it or nothing."""
    data = os.urandom(size)
    attr, opened = computer.fs.tmpfile(ROOT_INO, 0o640, 2, ROOT_USER)
    computer.fs.write(opened.fh, 0, data)
    flush = computer.fs.begin_flush(attr.ino, spill=True)
    if is_sealed_before and flush is not None:
        flush.execute()
        computer.fs.finish_flush(attr.ino, flush)  # else one that is still at work
    computer.fs.link(attr.ino, ROOT_INO, b"named")
    assert computer.stat("named").size == size
    assert len(computer.operations()) == 1
    computer.start()
    assert computer.read("named") == data
    assert computer.stat("named").mode & 0o7777 == 0o640


def test_a_file_that_got_its_name_late_can_be_written_on(computer):
    attr, opened = computer.fs.tmpfile(ROOT_INO, 0o640, 2, ROOT_USER)
    computer.fs.write(opened.fh, 0, b"before")
    computer.fs.link(attr.ino, ROOT_INO, b"named")
    assert computer.fs.dirty_inos() == []
    computer.fs.write(opened.fh, 6, b" after")
    assert computer.read("named") == b"before after"
    computer.close(opened.fh)
    computer.commit()
    computer.start()
    assert computer.read("named") == b"before after"


def test_a_writer_that_may_not_know_the_size_is_sent_back_once(computer):
    """The kernel asks anew and tries again; an append must not land in what came from elsewhere."""
    computer.write("log", b"1")
    ino = computer.walk("log").ino
    change = ChangeSet(content={computer.fs._inodes.get(ino).inode})
    computer.fs.report(change)
    computer.fs.release(computer.fs.open(ino, O_RDONLY).fh)
    with pytest.raises(FsError) as caught:
        computer.fs.open(ino, O_RDWR)
    assert caught.value.kind is ErrorKind.STALE
    computer.fs.report(change)
    computer.fs.release(computer.fs.open(ino, O_RDWR).fh)  # never twice in a row
    computer.fs.report(change)
    computer.walk("log")
    computer.fs.release(computer.fs.open(ino, O_RDWR).fh)
