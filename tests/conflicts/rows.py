"""The conflict table: what two people do at once, and what both see afterwards.

Each row is a generator. What it does before its first `yield` both computers know; every `yield`
is a meeting of both; what it does before the last one happens while they cannot hear each other,
P first, so that Q's stamps are the later ones. It returns the tree that both end with: a file's
bytes, a symlink's target behind `->`, None for a directory. `f~` is a conflict copy of `f`; several
under one name are a list. A second value checks what a tree does not show.

The same rows run on the pure view, on two simulated computers and on two real mounts.
"""

from collections.abc import Callable, Generator
from typing import Any, TypeAlias

Tree: TypeAlias = dict[str, Any]
Outcome: TypeAlias = Tree | tuple[Tree, Callable[[Any], bool]]
Row: TypeAlias = Callable[[Any, Any], Generator[None, None, Outcome]]

ROWS: dict[str, Row] = {}


def row(number: str) -> Callable[[Row], Row]:
    def note(function: Row) -> Row:
        ROWS[f"{number} {function.__name__}"] = function
        return function

    return note


@row("1")
def write_write(p, q):
    p.write("f.txt", b"base")
    yield
    p.write("f.txt", b"P")
    q.write("f.txt", b"Q")
    yield
    return {"f.txt": b"Q", "f~.txt": b"P"}


@row("2")
def write_the_same_bytes(p, q):
    p.write("f", b"base")
    yield
    p.write("f", b"same")
    q.write("f", b"same")
    yield
    return {"f": b"same"}


@row("3")
def truncate_append(p, q):
    p.write("f", b"base")
    yield
    p.truncate("f", 2)
    q.append("f", b" more")
    yield
    return {"f": b"base more", "f~": b"ba"}


@row("4")
def append_append(p, q):
    p.write("log", b"1\n")
    yield
    p.append("log", b"P\n")
    q.append("log", b"Q\n")
    yield
    return {"log": b"1\nQ\n", "log~": b"1\nP\n"}


@row("5")
def write_unlink(p, q):
    p.write("f", b"base")
    p.write("g", b"base")
    yield
    p.write("f", b"P")
    q.unlink("f")
    p.unlink("g")
    q.write("g", b"Q")
    yield
    return {"f": b"P", "g": b"Q"}


@row("6")
def attributes_unlink(p, q):
    p.write("f", b"base")
    yield
    p.chmod("f", 0o600)
    p.setxattr("f", "user.k", b"v")
    q.unlink("f")
    yield
    return {}


@row("7")
def write_rename(p, q):
    p.write("f", b"base")
    yield
    p.write("f", b"P")
    q.rename("f", "g")
    yield
    return {"g": b"P"}


@row("8")
def chmod_write(p, q):
    p.write("f", b"base")
    yield
    p.chmod("f", 0o711)
    q.write("f", b"Q")
    yield
    return {"f": b"Q"}, lambda x: x.mode("f") == 0o711


@row("9")
def rename_rename(p, q):
    p.write("f", b"base")
    yield
    p.rename("f", "p")
    q.rename("f", "q")
    yield
    return {"q": b"base"}


@row("10")
def rename_unlink(p, q):
    p.write("f", b"base")
    p.write("g", b"base g")
    yield
    p.rename("f", "p")
    q.unlink("f")
    p.unlink("g")
    q.rename("g", "q")
    yield
    return {"p": b"base", "q": b"base g"}


@row("11")
def rename_two_to_one_name(p, q):
    p.write("f", b"F")
    p.write("g", b"G")
    yield
    p.rename("f", "n")
    q.rename("g", "n")
    yield
    return {"n": b"G", "n~": b"F"}


@row("12")
def create_create(p, q):
    yield
    p.write("n", b"P")
    q.write("n", b"Q")
    yield
    return {"n": b"Q", "n~": b"P"}


@row("13")
def create_the_same_bytes(p, q):
    yield
    p.write("n", b"same")
    q.write("n", b"same")
    yield
    return {"n": b"same", "n~": b"same"}


@row("14")
def mkdir_mkdir(p, q):
    yield
    for one, child in ((p, "p"), (q, "q")):
        one.mkdir("n")
        one.write(f"n/{child}", child.encode())
        one.mkdir("n/sub")
        one.write(f"n/sub/{child}", child.encode())
    yield
    return {
        "n": None, "n/p": b"p", "n/q": b"q", "n/sub": None, "n/sub/p": b"p", "n/sub/q": b"q",
    }  # fmt: skip


@row("15")
def mkdir_create(p, q):
    yield
    p.mkdir("n")
    q.write("n", b"Q")
    yield
    return {"n": None, "n~": b"Q"}


@row("16")
def symlink_create(p, q):
    yield
    p.symlink("there", "n")
    q.write("n", b"Q")
    yield
    return {"n": b"Q", "n~": b"->there"}


@row("16b")
def symlink_mkdir(p, q):
    yield
    p.symlink("there", "n")
    q.mkdir("n")
    yield
    return {"n": None, "n~": b"->there"}


@row("17")
def rmdir_create(p, q):
    p.mkdir("d")
    yield
    p.rmdir("d")
    q.write("d/x", b"Q")
    yield
    return {"d": None, "d/x": b"Q"}


@row("18")
def remove_tree_write(p, q):
    p.mkdir("d")
    p.write("d/f", b"f")
    p.write("d/g", b"g")
    yield
    p.remove_tree("d")
    q.write("d/g", b"Q")
    yield
    return {"d": None, "d/g": b"Q"}


@row("19")
def remove_tree_move_in(p, q):
    p.mkdir("d")
    p.write("d/g", b"g")
    p.write("f", b"f")
    yield
    p.remove_tree("d")
    q.rename("f", "d/f")
    yield
    return {"d": None, "d/f": b"f"}


@row("20")
def remove_tree_move_out(p, q):
    p.mkdir("d")
    p.write("d/f", b"f")
    p.write("d/g", b"g")
    yield
    p.remove_tree("d")
    q.rename("d/g", "g")
    yield
    return {"g": b"g"}


@row("21")
def remove_tree_rename(p, q):
    p.mkdir("d")
    p.write("d/f", b"f")
    yield
    p.remove_tree("d")
    q.rename("d", "e")
    yield
    return {"e": None}


@row("22")
def rename_directory_twice(p, q):
    p.mkdir("d")
    p.write("d/f", b"f")
    yield
    p.rename("d", "p")
    q.rename("d", "q")
    yield
    return {"q": None, "q/f": b"f"}


@row("23")
def move_into_each_other(p, q):
    for name in ("A", "B"):
        p.mkdir(name)
        p.write(f"{name}/in {name}", name.encode())
    yield
    p.rename("A", "B/A")
    q.rename("B", "A/B")
    yield
    return {"B": None, "B/A": None, "B/A/in A": b"A", "B/in B": b"B"}


@row("24")
def a_cycle_of_three(p, q):
    for name in ("A", "B", "C"):
        p.mkdir(name)
    yield
    p.rename("A", "B/A")
    q.rename("B", "C/B")
    q.rename("C", "A/C")
    yield
    return {"C": None, "C/B": None, "C/B/A": None}


@row("25")
def move_into_removed(p, q):
    p.mkdir("d")
    p.write("d/f", b"f")
    p.mkdir("x")
    yield
    p.rename("d", "x/d")
    q.rmdir("x")
    yield
    return {"x": None, "x/d": None, "x/d/f": b"f"}


@row("26")
def replace_write(p, q):
    p.write("f", b"base")
    yield
    p.write("tmp", b"P")
    p.rename("tmp", "f")
    q.write("f", b"Q")
    yield
    return {"f": b"Q", "f~": b"P"}


@row("27")
def replace_replace(p, q):
    p.write("f", b"base")
    yield
    for one, text in ((p, b"P"), (q, b"Q")):
        one.write("tmp", text)
        one.rename("tmp", "f")
    yield
    return {"f": b"Q", "f~": b"P"}


@row("28")
def replace_unlink(p, q):
    p.write("f", b"base")
    yield
    p.write("tmp", b"P")
    p.rename("tmp", "f")
    q.unlink("f")
    yield
    return {"f": b"P"}


@row("29")
def replace_with_what_is_renamed(p, q):
    p.write("f", b"f")
    p.write("t", b"t")
    yield
    p.rename("t", "f")
    q.rename("t", "u")
    yield
    return {"f": b"t", "u": b"t"}


@row("30")
def replace_with_what_is_written(p, q):
    p.write("f", b"f")
    p.write("t", b"t")
    yield
    p.rename("t", "f")
    q.write("t", b"Q")
    yield
    return {"f": b"t", "t": b"Q"}


@row("31")
def link_unlink(p, q):
    p.write("f", b"f")
    yield
    p.link("f", "g")
    q.unlink("f")
    yield
    return {"g": b"f"}


@row("31b")
def unlink_both_links_write(p, q):
    p.write("f", b"f")
    p.link("f", "g")
    yield
    p.unlink("f")
    p.unlink("g")
    q.write("f", b"Q")
    yield
    return {"g": b"Q"}


@row("31c")
def unlink_a_link_rename_it(p, q):
    p.write("f", b"f")
    p.link("f", "g")
    yield
    p.unlink("g")
    q.rename("g", "h")
    yield
    return {"f": b"f", "h": b"f"}


@row("31d")
def write_by_two_links(p, q):
    p.write("f", b"f")
    p.link("f", "g")
    yield
    p.write("f", b"P")
    q.write("g", b"Q")
    yield
    return {"f": b"Q", "g": b"Q", ("f~", "g~"): b"P"}


@row("32")
def unlink_one_link_each(p, q):
    p.write("f", b"f")
    p.link("f", "g")
    yield
    p.unlink("f")
    q.unlink("g")
    yield
    return {}


@row("32b")
def unlink_one_link_and_write_then_unlink_the_other(p, q):
    p.write("f", b"f")
    p.link("f", "g")
    yield
    p.unlink("f")
    q.write("f", b"Q")
    q.unlink("g")
    yield
    return {"g": b"Q"}


@row("33")
def make_anew_write(p, q):
    p.write("f", b"base")
    yield
    p.unlink("f")
    p.write("f", b"new")
    q.write("f", b"Q")
    yield
    return {"f": b"new", "f~": b"Q"}


@row("34")
def unlink_unlink(p, q):
    p.write("f", b"base")
    yield
    p.unlink("f")
    q.unlink("f")
    yield
    return {}


@row("35")
def chmod_chmod(p, q):
    p.write("f", b"base")
    yield
    p.chmod("f", 0o711)
    q.chmod("f", 0o640)
    yield
    return {"f": b"base"}, lambda x: x.mode("f") == 0o640


@row("36")
def xattr_twice(p, q):
    p.write("f", b"base")
    p.setxattr("f", "user.gone", b"base")
    yield
    p.setxattr("f", "user.k", b"P")
    q.setxattr("f", "user.k", b"Q")
    p.setxattr("f", "user.gone", b"P")
    q.removexattr("f", "user.gone")
    yield
    return {"f": b"base"}, lambda x: x.xattrs("f") == {"user.k": b"Q"}


@row("37")
def two_xattrs(p, q):
    p.write("f", b"base")
    yield
    p.setxattr("f", "user.p", b"P")
    q.setxattr("f", "user.q", b"Q")
    yield
    return {"f": b"base"}, lambda x: x.xattrs("f") == {"user.p": b"P", "user.q": b"Q"}


@row("38")
def utimens_write(p, q):
    p.write("f", b"base")
    yield
    p.utime("f", 1_000_000_007)
    q.write("f", b"Q")
    yield
    return {"f": b"Q"}, lambda x: x.mtime("f") > 10**18


@row("39")
def names_that_fold_alike(p, q):
    yield
    p.write("Name", b"P")
    q.write("name", b"Q")
    p.write("caf\u00e9", b"P")
    q.write("cafe\u0301", b"Q")
    yield
    return {"Name": b"P", "name": b"Q", "caf\u00e9": b"P", "cafe\u0301": b"Q"}


def _conflict(p, q):
    p.write("f", b"base")
    yield
    p.write("f", b"P")
    q.write("f", b"Q")
    yield


@row("40")
def edit_the_copy_delete_the_copy(p, q):
    yield from _conflict(p, q)
    p.unlink(p.copy_of("f"))
    q.write(q.copy_of("f"), b"Q edits P's")
    yield
    return {"f": b"Q", "f~": b"Q edits P's"}


@row("41")
def both_resolve_alike(p, q):
    yield from _conflict(p, q)
    for one in (p, q):
        one.rename(one.copy_of("f"), "f")
    yield
    return {"f": b"P"}


@row("41b")
def both_delete_the_copy(p, q):
    yield from _conflict(p, q)
    for one in (p, q):
        one.unlink(one.copy_of("f"))
    yield
    return {"f": b"Q"}


@row("41c")
def resolve_in_two_ways(p, q):
    yield from _conflict(p, q)
    p.unlink(p.copy_of("f"))
    q.rename(q.copy_of("f"), "f")
    yield
    return {"f": b"P"}


@row("42")
def both_delete_the_winner(p, q):
    yield from _conflict(p, q)
    p.unlink("f")
    q.unlink("f")
    yield
    return {"f~": b"P"}


@row("42b")
def both_go_on_writing(p, q):
    yield from _conflict(p, q)
    p.write("f", b"P again")
    q.write("f", b"Q again")
    yield
    return {"f": b"Q again", "f~": [b"P", b"P again"]}


@row("43")
def written_after_unlink(p, q):
    p.write("f", b"base")
    yield
    held = p.hold("f")
    p.unlink("f")
    held.save(b"nobody's")
    q.chmod("f", 0o600)
    yield
    return {}


@row("44")
def rename_joined_directories_create_inside(p, q):
    yield
    for one, child in ((p, "p"), (q, "q")):
        one.mkdir("d")
        one.write(f"d/{child}", child.encode())
    yield
    p.rename("d", "e")
    q.write("d/new", b"Q")
    yield
    return {"e": None, "e/p": b"p", "e/q": b"q", "e/new": b"Q"}


@row("45")
def database_and_journal(p, q):
    p.write("db", b"base")
    yield
    for one, text in ((p, b"P"), (q, b"Q")):
        one.write("db-journal", b"undo " + text)
        one.write("db", text)
        one.unlink("db-journal")
    yield
    return {"db": b"Q", "db~": b"P"}


def flat(expected: Tree) -> list[tuple[str, bytes | None]]:
    """A row's outcome with one pair for each entry."""
    pairs = []
    for path, contents in expected.items():
        each = contents if isinstance(contents, list) else [contents]
        pairs += [(path, content) for content in each]
    return sorted(pairs, key=repr)


def agrees(expected: Tree, found: dict[str, bytes | None], fold: Callable[[str], str]) -> bool:
    """Whether a tree is the expected one; a key of several paths allows any of them."""
    shown = [(fold(path), content) for path, content in found.items()]
    for path, content in flat(expected):
        options = [(p, content) for p in (path if isinstance(path, tuple) else (path,))]
        match = next((pair for pair in options if pair in shown), None)
        if match is None:
            return False
        shown.remove(match)
    return not shown
