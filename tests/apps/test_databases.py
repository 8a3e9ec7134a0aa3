"""Databases: several writers, every journal mode, and what they themselves find after it."""

import shutil
import sqlite3
import subprocess
import sys

import pytest

from tests.support.programs import kernel_only, run, shell

pytestmark = pytest.mark.mount
WRITER = """
import sqlite3, sys
base = sqlite3.connect(sys.argv[1], timeout=120, isolation_level=None)
base.execute("pragma mmap_size=268435456")
for n in range(25):
    base.execute("begin immediate")
    base.execute("insert into t(x) values(randomblob(3000))")
    base.execute("update t set x = randomblob(2000) where n = (select max(n) / 2 from t)")
    base.execute("commit")
"""


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_sqlite_with_several_writers(folder, mode):
    path = folder / "data.db"
    base = sqlite3.connect(path, isolation_level=None)
    assert base.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
    base.execute("pragma mmap_size=268435456")
    base.execute("create table t(n integer primary key, x)")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path]) for _ in range(3)]
    while any(writer.poll() is None for writer in writers):
        base.execute("select count(*), sum(length(x)) from t").fetchone()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert base.execute("select count(*) from t").fetchone() == (75,)
    assert base.execute("pragma integrity_check").fetchone() == ("ok",)
    base.execute("vacuum")
    base.close()
    assert run("sqlite3", path, "pragma integrity_check; select count(*) from t") == "ok\n75\n"


def test_sqlite_rolls_back_what_a_crash_interrupted(folder):
    """The journal that a killed writer leaves is played back by the next one."""
    path = folder / "data.db"
    code = (
        "import os, sqlite3, sys\nbase = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "base.execute('pragma cache_size=1')\nbase.execute('create table t(x)')\n"
        "base.executemany('insert into t values(zeroblob(5000))', [()] * 20)\n"
        "base.execute('begin')\nbase.execute('update t set x = randomblob(5000)')\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    assert (folder / "data.db-journal").stat().st_size > 50_000
    found = run(
        "sqlite3", path, "pragma integrity_check; select count(*) from t where x = zeroblob(5000)"
    )
    assert found == "ok\n20\n"


@pytest.mark.slow
@kernel_only
def test_postgresql(folder, tmp_path):
    """A cluster as its own user: initdb, a benchmark, a crash, recovery, and its checksums."""
    binaries = sorted(p for p in _glob_postgres())[-1]
    sockets = tmp_path / "sockets"
    for path in (folder, sockets):
        path.mkdir(exist_ok=True)
        shutil.chown(path, "postgres", "postgres")
        path.chmod(0o700)
    for parent in list(sockets.parents)[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    data = folder / "data"

    def postgres(script: str) -> str:
        return run(
            "su", "postgres", "-s", "/bin/bash", "-c", f"cd /; PATH={binaries}:$PATH; {script}"
        )

    start = f"pg_ctl -D {data} -o '-k {sockets} -h \"\"' -l {folder}/log -w start"
    postgres(f"initdb -k -A trust -D {data} >{folder}/initdb")
    postgres(start)
    try:
        postgres(f"pgbench -q -h {sockets} -i -s 1 postgres")
        report = postgres(f"pgbench -h {sockets} -c 4 -j 2 -t 40 postgres")
        assert "processed: 160/160" in report
        postgres(f"pg_ctl -D {data} -m immediate stop")
        postgres(start)
        assert "160" in postgres(
            f"psql -h {sockets} -tc 'select count(*) from pgbench_history' postgres"
        )
        postgres(f"psql -h {sockets} -c 'vacuum full' postgres")
    finally:
        postgres(f"pg_ctl -D {data} -m fast -w stop")
    assert "Bad checksums:  0" in postgres(f"pg_checksums -c -D {data}")
    assert "PANIC" not in (folder / "log").read_text()


def _glob_postgres() -> list[str]:
    return shell("ls -d /usr/lib/postgresql/*/bin").split()
