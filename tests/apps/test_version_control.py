"""git as people use it: it trusts inode numbers, times, links, renames and locks."""

import concurrent.futures
import os

import pytest

from tests.support.programs import git, kernel_only, run

pytestmark = pytest.mark.mount


def test_a_repository_stays_clean_and_whole(folder, tree):
    repository = folder / "repository"
    repository.mkdir()
    git(repository, "init", "-q")
    run("cp", "-a", f"{tree}/.", repository)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "first")
    assert git(repository, "status", "--porcelain") == ""
    git(repository, "mv", "json", "moved")
    git(repository, "commit", "-qm", "second")
    git(repository, "gc", "-q", "--prune=now")
    git(repository, "clone", "-q", ".", "../clone")
    git(repository, "clone", "-q", "--no-hardlinks", ".", "../copied")
    for each in (repository, folder / "clone", folder / "copied"):
        assert git(each, "status", "--porcelain") == ""
        assert git(each, "fsck", "--strict", "--full") == ""
    git(folder / "clone", "checkout", "-q", "HEAD~1")
    assert (folder / "clone/json").is_dir()
    git(folder / "clone", "stash", "list")
    git(folder / "clone", "bisect", "start", "main", "HEAD")


def test_status_writes_nothing_when_nothing_changed(folder):
    git(folder, "init", "-q")
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)
        os.utime(folder / name, (1_000_000_000, 1_000_000_000))  # long before the index
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "x")
    before = (folder / ".git/index").stat()
    for _ in range(3):
        assert git(folder, "status", "--porcelain") == ""
    after = (folder / ".git/index").stat()
    assert (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns)


@kernel_only
def test_two_work_trees_at_once(folder):
    main = folder / "main"
    main.mkdir()
    git(main, "init", "-q")
    (main / "f").write_text("0\n")
    git(main, "add", "f")
    git(main, "commit", "-qm", "0")
    for name in ("one", "two"):
        git(main, "worktree", "add", "-q", f"../{name}", "-b", name)

    def work(name: str) -> None:
        for n in range(8):
            (folder / name / f"{name}{n}").write_text(name * n)
            git(folder / name, "add", "-A")
            git(folder / name, "commit", "-qm", f"{name} {n}")

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(work, ("one", "two")))
    git(main, "merge", "-q", "-m", "both", "one", "two")
    assert len(os.listdir(main)) == 2 + 16
    git(main, "repack", "-adq")
    git(main, "worktree", "remove", "../one")
    assert git(main, "fsck", "--full") == ""
    assert git(main, "status", "--porcelain") == ""
