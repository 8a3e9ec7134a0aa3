"""Load generators that check what they read: fio, and the file system classes of stress-ng."""

import pytest

from tests.support.programs import kernel_only, run, shell

pytestmark = [pytest.mark.mount, kernel_only]
ENGINES = {
    "buffered": ("--ioengine=psync", "--rw=randrw"),
    "mapped": ("--ioengine=mmap", "--rw=randwrite"),
    "direct": ("--ioengine=libaio", "--rw=randwrite", "--direct=1", "--iodepth=8"),
    "synced": ("--ioengine=pvsync", "--rw=randwrite", "--fsync=64"),
    "streamed": ("--ioengine=sync", "--rw=write", "--bsrange=512-256k", "--bs_unaligned"),
    "trimmed": ("--ioengine=falloc", "--rw=randwrite", "--verify=0"),
}
# Each of these makes and changes names and files, and checks what it did; `tools/apps` runs more.
STRESSORS = (
    "access", "chmod", "chown", "copy-file", "dentry", "fallocate", "fpunch", "mknod",
    "msync", "rename", "sync-file", "utime", "xattr",
)  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_fio_reads_what_it_wrote(folder, engine):
    words = ("--bs=4k", *ENGINES[engine])
    run(
        "fio", "--name=check", f"--directory={folder}", "--size=6m", "--numjobs=2",
        f"--aux-path={folder}", "--verify=crc32c", "--verify_fatal=1", "--output=/dev/null", *words,
    )  # fmt: skip


@pytest.mark.slow
def test_stress_ng_finds_nothing(folder):
    """Each class in turn, two workers, a second."""
    failed = []
    for stressor in STRESSORS:
        report = shell(
            f"stress-ng --temp-path '{folder}' --{stressor} 2 --timeout 1 --verify 2>&1"
            " || echo fail: it ended badly"
        )
        failed += [f"{stressor}: {line}" for line in report.splitlines() if "fail:" in line]
    assert failed == []
