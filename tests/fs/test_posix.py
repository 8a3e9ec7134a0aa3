"""POSIX rules that random system calls once found broken; each keeps what it found."""

from dataclasses import replace

import pytest

from piperfs.core.errors import ErrorKind, FsError
from piperfs.fs.api import ROOT_INO, Caller, SetAttr
from piperfs.fs.owners import IdMap
from tests.support.computers import O_RDONLY, O_TRUNC, ROOT_USER, Computer
from tests.support.steps import access_list

FIFO, CHAR = 0o010000, 0o020000
ALICE = Caller(1000, 1000, 7, 0o022)
NOBODY = 0xFFFFFFFF
EMPTY = SetAttr()
LIST = access_list((1, 6, NOBODY), (2, 4, 5), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))


@pytest.fixture
def computer():
    return Computer("a")


def set_attributes(computer, path, caller=ROOT_USER, **change):
    return computer.fs.setattr(computer.walk(path).ino, SetAttr(**change), None, caller)


def set_attributes_of(computer, ino, **change):
    return computer.fs.setattr(ino, SetAttr(**change), None, ROOT_USER)


def fails(kind):
    return pytest.raises(FsError, check=lambda error: error.kind is kind)


@pytest.mark.parametrize("kind", [FIFO, CHAR])
def test_special_nodes_take_attributes_like_files(computer, kind):
    node = computer.fs.mknod(ROOT_INO, b"p", kind | 0o644, 259, ROOT_USER)
    set_attributes(computer, "p", mode=0o600, mtime_ns=-5)
    set_attributes(computer, "p", uid=1000)
    computer.fs.setxattr(node.ino, b"trusted.t", b"1", 0, ROOT_USER)
    computer.commit()
    computer.start()
    found = computer.stat("p")
    assert (found.mode, found.mtime_ns, found.uid, found.rdev) == (kind | 0o600, -5, 1000, 259)
    assert computer.fs.getxattr(found.ino, b"trusted.t") == b"1"
    assert computer.listdir() == ["p"]


def test_special_nodes_inherit_lists(computer):
    computer.mkdir("d")
    parent = computer.walk("d").ino
    computer.fs.setxattr(parent, b"system.posix_acl_default", LIST, 0, ROOT_USER)
    node = computer.fs.mknod(parent, b"p", FIFO | 0o666, 0, ROOT_USER)
    assert b"system.posix_acl_access" in computer.fs.listxattr(node.ino, ROOT_USER)


def test_files_without_a_name_inherit_lists(computer):
    computer.mkdir("d")
    parent = computer.walk("d").ino
    computer.fs.setxattr(parent, b"system.posix_acl_default", LIST, 0, ROOT_USER)
    made = computer.fs.create(parent, b"made", 0o660, 2, ROOT_USER)[0]
    attr, _ = computer.fs.tmpfile(parent, 0o660, 2, ROOT_USER)
    computer.fs.link(attr.ino, parent, b"named")
    assert computer.stat("d/named").mode == made.mode
    values = [computer.fs.getxattr(i, b"system.posix_acl_access") for i in (made.ino, attr.ino)]
    assert values[0] == values[1]


def test_access_time_does_not_follow_other_times(computer):
    computer.write("f", b"1")
    born = computer.stat("f").atime_ns
    computer.utime("f", 5)
    computer.write("f", b"2")
    computer.chmod("f", 0o600)
    assert computer.stat("f").atime_ns == born
    set_attributes(computer, "f", atime_ns=7)
    computer.write("g", b"3")
    computer.rename("f", "g")
    assert computer.stat("g").atime_ns == 7


def test_times_of_a_new_file_are_one(computer):
    computer.close(computer.create("f"))
    found = computer.stat("f")
    assert found.atime_ns == found.mtime_ns == found.ctime_ns


@pytest.mark.parametrize("path", ["f", "d", "p"])
@pytest.mark.parametrize("is_published", [False, True])
@pytest.mark.parametrize(
    "change", [{"mode": 0o640}, {"uid": 1000}, {"mtime_ns": 5}, {"atime_ns": 5}, {}]
)
def test_every_change_of_attributes_moves_the_change_time(computer, path, is_published, change):
    computer.write("f", b"1")
    computer.mkdir("d")
    computer.fs.mknod(ROOT_INO, b"p", FIFO | 0o644, 0, ROOT_USER)
    if is_published:
        computer.commit()
    before, above = computer.stat(path), computer.stat("")
    set_attributes(computer, path, **change)
    after = computer.stat(path)
    assert after.ctime_ns > before.ctime_ns
    assert after.mtime_ns == change.get("mtime_ns", before.mtime_ns)
    assert computer.stat("") == above, "the parent is not concerned"


def test_change_times_never_go_back(computer):
    fh = computer.create("f", 0o4755)
    computer.fs.write(fh, 0, b"1")
    computer.chmod("f", 0o600)
    computer.commit()
    before = computer.stat("f").ctime_ns
    computer.close(fh)
    assert computer.stat("f").ctime_ns >= before


def test_publication_changes_no_time(computer):
    computer.mkdir("d")
    computer.commit()
    computer.write("d/f", b"1")
    computer.unlink("d/f")
    before = computer.stat("d")
    computer.clock.ns += 10**9
    computer.commit()
    assert computer.stat("d") == before


def test_truncation_needs_no_handle_that_writes(computer):
    computer.write("f", b"123")
    computer.fs.release(computer.open("f", O_RDONLY | O_TRUNC))
    assert computer.read("f") == b""


@pytest.mark.parametrize("way", ["unlinked", "replaced", "unnamed"])
def test_times_set_on_a_file_without_a_name_after_a_write_stay(computer, way):
    if way == "unnamed":
        attr, opened = computer.fs.tmpfile(ROOT_INO, 0o644, 2, ROOT_USER)
        ino, fh = attr.ino, opened.fh
    else:
        fh = computer.create("f")
        ino = computer.walk("f").ino
    computer.fs.write(fh, 0, b"1")
    if way == "unlinked":
        computer.unlink("f")
    elif way == "replaced":
        computer.write("g", b"2")
        computer.rename("g", "f")
    change = SetAttr(atime_ns=5, mtime_ns=6)
    assert computer.fs.setattr(ino, change, fh, ROOT_USER).mtime_ns == 6
    assert computer.fs.getattr(ino).mtime_ns == 6
    if way == "unnamed":
        computer.fs.link(ino, ROOT_INO, b"named")
        computer.close(fh)
        assert (computer.stat("named").atime_ns, computer.stat("named").mtime_ns) == (5, 6)
    else:
        reader = computer.fs.open(ino, O_RDONLY).fh
        computer.fs.release(fh)
        assert computer.fs.getattr(ino).mtime_ns == 6
        computer.fs.release(reader)


@pytest.mark.parametrize("is_dirty", [False, True])
def test_pages_of_a_mapping_that_come_late_leave_a_time_that_was_set(computer, is_dirty):
    fh = computer.create("f")
    computer.fs.write(fh, 0, b"1")
    if not is_dirty:
        computer.flush(fh)
    computer.utime("f", 5)
    before = computer.stat("f")
    computer.fs.write(fh, 0, b"2", by_mapping=True)
    assert computer.stat("f").mtime_ns == 5
    assert computer.stat("f").ctime_ns > before.ctime_ns
    computer.flush(fh)
    assert computer.stat("f").mtime_ns == 5
    computer.fs.write(fh, 0, b"3")
    computer.fs.write(fh, 0, b"4", by_mapping=True)
    assert computer.stat("f").mtime_ns > 5, "an ordinary write ends it"
    computer.utime("f", 6)
    computer.fs.write(fh, 0, b"5", by_mapping=True)
    computer.close(fh)
    computer.commit()
    computer.start()
    assert (computer.stat("f").mtime_ns, computer.read("f")) == (6, b"5")


def test_a_file_unlinked_while_it_is_flushed_keeps_the_time_of_its_last_write(computer):
    computer.write("f", b"1")
    fh, ino = computer.open("f"), computer.walk("f").ino
    computer.clock.ns += 10**9
    computer.fs.write(fh, 0, b"2")
    written = computer.stat("f").mtime_ns
    flush = computer.fs.begin_flush(ino)
    computer.unlink("f")
    flush.execute()
    computer.fs.finish_flush(ino, flush)
    assert computer.fs.getattr(ino).mtime_ns == written
    computer.fs.release(fh)
    assert computer.fs.getattr(ino).mtime_ns == written


@pytest.mark.parametrize("reads_on", [False, True])
def test_what_was_cut_off_by_the_descriptor_of_an_unlinked_file_ends_with_it(computer, reads_on):
    """As truncate("/proc/self/fd/N") does, which opens nothing."""
    computer.write("f", b"12345")
    fh, ino = computer.open("f", O_RDONLY), computer.walk("f").ino
    other = computer.open("f", O_RDONLY)
    computer.unlink("f")
    set_attributes_of(computer, ino, size=2)
    computer.fs.release(fh)
    assert computer.fs._files.sessions() == []
    if reads_on:
        assert computer.fs.read(other, 0, 9) == b"12"
    computer.fs.release(other)
    computer.fs.forget(ino, 1 << 30)
    assert not list(computer.fs._inodes.anonymous())


def test_a_list_that_is_not_there_is_removed_without_error(computer):
    computer.write("f", b"")
    computer.fs.removexattr(computer.walk("f").ino, b"system.posix_acl_access")


def test_a_list_that_says_what_the_mode_says_changes_nothing(computer):
    computer.write("f", b"")
    ino, before = computer.walk("f").ino, computer.stat("f")
    same = access_list((1, 6, NOBODY), (4, 4, NOBODY), (32, 4, NOBODY))
    computer.fs.setxattr(ino, b"system.posix_acl_access", same, 0, ROOT_USER)
    assert computer.stat("f") == before
    computer.fs.setxattr(ino, b"system.posix_acl_access", LIST, 0, ROOT_USER)
    longer = computer.stat("f")
    computer.fs.setxattr(ino, b"system.posix_acl_access", same, 0, ROOT_USER)
    assert computer.stat("f").mode == before.mode
    assert computer.stat("f").ctime_ns > longer.ctime_ns > before.ctime_ns


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"user.", ErrorKind.INVALID),
        (b"nothing", ErrorKind.NOT_SUPPORTED),
        (b"system.x", ErrorKind.NOT_SUPPORTED),
        (b"user.x", ErrorKind.NO_ATTRIBUTE),
    ],
)
def test_names_of_xattrs_are_checked_in_every_call(computer, name, kind):
    computer.write("f", b"")
    ino = computer.walk("f").ino
    with fails(kind):
        computer.fs.getxattr(ino, name)
    with fails(kind):
        computer.fs.removexattr(ino, name)


def test_trusted_names_are_listed_for_root_only(computer):
    computer.write("f", b"")
    ino = computer.walk("f").ino
    computer.fs.setxattr(ino, b"trusted.t", b"", 0, ROOT_USER)
    assert computer.fs.listxattr(ino, ROOT_USER) == [b"trusted.t"]
    assert computer.fs.listxattr(ino, ALICE) == []


@pytest.mark.parametrize(
    ("mode", "caller", "left"),
    [
        (0o6755, ROOT_USER, 0o755),
        (0o2745, ROOT_USER, 0o2745),
        (0o2745, ALICE, 0o745),
        (0o2745, Caller(1000, 0), 0o2745),
        (0o2745, Caller(1000, 1000, 99), 0o2745),
    ],
)
def test_set_id_bits_after_a_write(computer, mode, caller, left):
    """Set-group-id without group x marks locking and stays, for members of the group."""
    groups = lambda pid: frozenset({0}) if pid == 99 else frozenset()
    owners = computer.fs._attributes._owners
    owners.accounts = replace(owners.accounts, groups_of=groups)
    computer.close(computer.create("f", mode))
    computer.fs.kill_suidgid(computer.walk("f").ino, caller)
    assert computer.stat("f").mode & 0o7777 == left


def without_accounts(computer):
    """Begin again while the directory service does not answer; returns its accounts."""
    computer.commit()
    computer.start()
    owners = computer.fs._attributes._owners
    silent = lambda _name: None
    known, owners.accounts = (
        owners.accounts,
        replace(
            owners.accounts, user_id=silent, group_id=silent, user_name=silent, group_name=silent
        ),
    )
    return known


@pytest.mark.parametrize("owner", [{"uid": 1000, "gid": 0}, {"uid": 0, "gid": 1000}])
def test_set_id_bits_do_not_count_while_an_account_is_unknown(computer, owner):
    computer.close(computer.create("f"))
    set_attributes(computer, "f", **owner)
    computer.chmod("f", 0o6755)
    known = without_accounts(computer)
    found = computer.stat("f")
    assert (found.uid, found.gid, found.mode & 0o7777) == (0, 0, 0o755)
    assert not found.is_lasting, "the kernel soon asks again"
    computer.fs._attributes._owners.accounts = known
    found = computer.stat("f")
    assert (found.uid, found.gid, found.mode & 0o7777) == (*owner.values(), 0o6755)
    assert found.is_lasting


def test_a_file_keeps_its_stored_owner_while_the_account_is_unknown(computer):
    computer.close(computer.create("f"))
    set_attributes(computer, "f", uid=1000, gid=1000)
    known = without_accounts(computer)
    set_attributes(computer, "f", gid=5)
    computer.fs._attributes._owners.accounts = known
    assert (computer.stat("f").uid, computer.stat("f").gid) == (1000, 5)


def test_a_number_is_stored_by_its_name_once_there_is_one(computer):
    known = without_accounts(computer)
    set_attributes(computer, "", uid=1000)
    computer.fs._attributes._owners.accounts = known
    computer.close(computer.create("f"))
    set_attributes(computer, "f", uid=1000)
    node = computer.fs._inodes.get(computer.walk("f").ino)
    assert computer.fs._attributes.row(node).owner == "alice"


def test_a_name_may_be_mapped_to_root(computer):
    owners = computer.fs._attributes._owners
    owners.idmap = IdMap({"alice": 0}, {"alice": 0})
    owners.uid, owners.gid = 7, 7
    assert owners.own_ids("alice", "alice") == (0, 0)
    owners.idmap = IdMap({"boss": 0}, {"staff": 0})
    assert owners.own_ids("boss", "staff") == (0, 0)


def test_chown_to_nobody_else_clears_set_id_bits(computer):
    computer.close(computer.create("f", 0o6755))
    computer.fs.setattr(computer.walk("f").ino, EMPTY, None, ROOT_USER)
    assert computer.stat("f").mode & 0o7777 == 0o755


def test_setting_a_list_drops_the_bit_of_a_foreign_group(computer):
    computer.mkdir("d")
    set_attributes(computer, "d", uid=1000, gid=5)
    computer.chmod("d", 0o2775)
    computer.fs.setxattr(computer.walk("d").ino, b"system.posix_acl_access", LIST, 0, ALICE)
    assert computer.stat("d").mode & 0o7777 == 0o640


def test_an_unnamed_file_keeps_what_was_written(computer):
    attr, opened = computer.fs.tmpfile(ROOT_INO, 0o644, 2, ROOT_USER)
    other = computer.fs.open(attr.ino, 2).fh
    computer.fs.write(opened.fh, 0, b"12345")
    computer.fs.release(opened.fh)
    computer.fs.release(other)
    assert computer.fs.getattr(attr.ino).size == 5
    computer.fs.link(attr.ino, ROOT_INO, b"f")
    assert computer.read("f") == b"12345"


@pytest.mark.parametrize("seconds", [1 << 62, -(1 << 62), 1 << 40])
def test_times_out_of_range_are_clamped_and_can_be_saved(computer, seconds):
    computer.write("f", b"1")
    computer.utime("f", seconds * 10**9)
    set_attributes(computer, "f", atime_ns=seconds * 10**9)
    computer.commit()
    computer.start()
    limit = (1 << 63) - 1
    assert computer.stat("f").mtime_ns == max(-limit, min(limit, seconds * 10**9))


@pytest.mark.parametrize("cookie", [-1, 1 << 63, (1 << 64) - 1])
def test_a_directory_has_nothing_at_cookies_nobody_gave_out(computer, cookie):
    fh = computer.fs.opendir(ROOT_INO)
    assert computer.fs.readdir(fh, cookie, plus=False, count=10) == []
