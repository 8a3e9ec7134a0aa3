"""The disk of a computer that is switched off, and what its processes leave lying around."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from piperfs.core.errors import ExitCode, UserError
from piperfs.core.identity import generate
from piperfs.daemon import kernel_keyring, keyfile
from piperfs.daemon.keyfile import FILE, Secrets, protect, read_keys, write_keys
from tests.support.markers import Markers
from tests.support.volumes import Replica, eventually, replicas

SECRETS = Secrets(generate(os.urandom).secrets, os.urandom(32))


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keyfile, "ARGON_KIB", 64)  # what it costs is no matter here
    for name in ("CREDENTIALS_DIRECTORY", "PIPERFS_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "keys"


def test_a_plain_key_file_says_so(keys: Path) -> None:
    assert write_keys(keys, SECRETS, os.urandom) == "none"
    assert read_keys(keys) == (SECRETS, "none")


@pytest.mark.parametrize(("place", "mode"), [("", 0o750), (FILE, 0o640), (FILE, 0o604)])
def test_a_key_that_others_may_read_is_refused(keys: Path, place: str, mode: int) -> None:
    write_keys(keys, SECRETS, os.urandom)
    (keys / place).chmod(mode)
    with pytest.raises(UserError, match="may be read by others"):
        read_keys(keys)


def test_a_link_in_place_of_a_key_is_refused(keys: Path, tmp_path: Path) -> None:
    write_keys(keys, SECRETS, os.urandom)
    (keys / FILE).rename(tmp_path / "elsewhere")
    (keys / FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link"):
        read_keys(keys)


def test_a_passphrase_from_a_file_protects(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    monkeypatch.setenv("PIPERFS_PASSPHRASE_FILE", str(secret))
    assert write_keys(keys, SECRETS, os.urandom) == "passphrase"
    assert read_keys(keys) == (SECRETS, "passphrase")
    raw = (keys / FILE).read_bytes()
    assert SECRETS.device.signing not in raw
    assert SECRETS.store not in raw
    secret.write_text("wrong\n")
    with pytest.raises(UserError, match="does not open"):
        read_keys(keys)
    monkeypatch.delenv("PIPERFS_PASSPHRASE_FILE")
    with pytest.raises(UserError, match="needs its passphrase"):
        read_keys(keys)


def test_the_first_line_of_a_passphrase_file_counts_and_older_keys_open(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "passphrase"
    monkeypatch.setenv("PIPERFS_PASSPHRASE_FILE", str(secret))
    secret.write_text("correct horse\nbattery\n")
    write_keys(keys, SECRETS, os.urandom)
    for text in ("correct horse", "correct horse\n", "correct horse\nstaple\n"):
        secret.write_text(text)
        assert read_keys(keys) == (SECRETS, "passphrase")
    protect(keys, b"correct horse\nbattery", os.urandom)  # as the whole file was once taken
    with pytest.raises(UserError, match="does not open"):
        read_keys(keys)
    secret.write_text("correct horse\nbattery\n")
    assert read_keys(keys) == (SECRETS, "passphrase")


@pytest.mark.parametrize("text", ["", "\n", "\nsecond line\n"])
def test_an_empty_passphrase_makes_no_key_but_opens_one_that_it_made(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    write_keys(keys, SECRETS, os.urandom)
    protect(keys, b"", os.urandom)
    (tmp_path / "passphrase").write_text(text)
    monkeypatch.setenv("PIPERFS_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    assert read_keys(keys) == (SECRETS, "passphrase")
    with pytest.raises(UserError, match="protects nothing") as caught:
        write_keys(tmp_path / "others", SECRETS, os.urandom)
    assert caught.value.code is ExitCode.USAGE
    assert list((tmp_path / "others").iterdir()) == []


@pytest.mark.mount
def test_a_passphrase_file_may_be_named_from_where_one_is(tmp_path: Path) -> None:
    with replicas(tmp_path / "r", "anna") as (anna,):
        state, mountpoint = str(anna.state), str(anna.mountpoint)
        (anna.base / "pw").write_text("correct horse\n")
        (anna.base / "none").write_text("")
        for name, words, code in (
            ("none", ("init", state), 2),
            ("pw", ("init", state), 0),
            ("pw", ("mount", state, mountpoint, "-o", "listen=127.0.0.1:0,discovery=off"), 0),
            ("pw", ("umount", mountpoint), 0),
        ):
            environment = anna.environment | {"PIPERFS_PASSPHRASE_FILE": name}
            command = [*anna.program, *words]
            done = subprocess.run(command, cwd=anna.base, env=environment, check=False, timeout=60)
            assert done.returncode == code, words


def test_a_long_passphrase_is_refused_and_not_cut(tmp_path: Path) -> None:
    with replicas(tmp_path / "r", "anna") as (anna,):
        state = str(anna.init().state)
        refused = anna.run("protect", state, stdin="x" * 1025 + "\n")
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
        assert "at most 1024 characters" in refused.stderr
        anna.piperfs("protect", state, stdin="x" * 1024 + "\n")
        (anna.base / "pw").write_text("x" * 1024)
        anna.environment["PIPERFS_PASSPHRASE_FILE"] = str(anna.base / "pw")
        assert anna.status()["key_protection"] == "passphrase"


def test_a_passphrase_from_a_credential_of_systemd(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / keyfile.CREDENTIAL).write_text("correct horse\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert write_keys(keys, SECRETS, os.urandom) == "credential"
    assert read_keys(keys) == (SECRETS, "credential")


def test_an_unlocked_key_stays_in_the_kernel_until_it_is_locked(keys: Path) -> None:
    write_keys(keys, SECRETS, os.urandom)
    assert protect(keys, b"correct horse", os.urandom) == "passphrase"
    with pytest.raises(UserError, match="does not open"):
        keyfile.unlock(keys, b"wrong")
    keyfile.unlock(keys, b"correct horse")
    try:
        assert read_keys(keys) == (SECRETS, "keyring")
    finally:
        assert keyfile.lock(keys)
    with pytest.raises(UserError, match="needs its passphrase"):
        read_keys(keys)
    assert not keyfile.lock(keys)


def test_the_keyring_forgets_and_keeps_names_apart() -> None:
    names = [f"piperfs:test:{os.urandom(8).hex()}" for _ in range(2)]
    assert kernel_keyring.keep(names[0], b"x" * 32)
    assert kernel_keyring.find(names[0]) == b"x" * 32
    assert kernel_keyring.find(names[1]) is None
    assert kernel_keyring.forget(names[0])
    assert kernel_keyring.find(names[0]) is None


def test_a_changed_bit_of_the_key_file_is_noticed(keys: Path, monkeypatch, tmp_path) -> None:
    (tmp_path / keyfile.CREDENTIAL).write_text("correct horse\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    write_keys(keys, SECRETS, os.urandom)
    raw = (keys / FILE).read_bytes()
    for at in range(0, len(raw), 3):
        changed = bytearray(raw)
        changed[at] ^= 4
        (keys / FILE).write_bytes(bytes(changed))
        with pytest.raises(UserError):
            read_keys(keys)


# Real daemons


def limits_of(pid: int) -> str:
    return Path(f"/proc/{pid}/limits").read_text()


@pytest.mark.mount
def test_no_plaintext_is_left_by_a_mount(tmp_path: Path) -> None:
    markers = Markers(10_000)
    with replicas(tmp_path / "r", "anna") as (anna,):
        anna.init().mount()
        fill(anna.mountpoint, markers)
        limits = limits_of(anna.pid)
        assert markers.left < 400
        assert not markers.found_in_files(anna.base / "run")
        anna.umount()
        assert not markers.found_in_files(anna.state)
        assert (anna.state / "daemon.log").stat().st_size > 0
    assert re.search(r"Max core file size\s+0\s+0\s", limits)


def fill(folder: Path, markers: Markers) -> None:
    """Names, contents, targets, attributes; and calls that fail with a name in them."""
    for _ in range(40):
        inner = folder / os.fsdecode(markers.take())
        inner.mkdir()
        file = inner / os.fsdecode(markers.take())
        file.write_bytes(markers.take(240))
        os.setxattr(file, b"user." + markers.take(), markers.take())
        (inner / "link").symlink_to(os.fsdecode(markers.take()))
        file.rename(inner / os.fsdecode(markers.take()))
        for missing in (inner / os.fsdecode(markers.take()), inner / ("x" * 300)):
            with pytest.raises(OSError, match=r"No such file|too long"):
                missing.read_bytes()


@pytest.mark.mount
@pytest.mark.slow
def test_status_warns_until_a_passphrase_protects_the_key(tmp_path: Path) -> None:
    with replicas(tmp_path / "r", "anna") as (anna,):
        state = str(anna.init().state)
        assert "NOT PROTECTED" in anna.piperfs("status", state)
        anna.piperfs("protect", state, stdin="correct horse\n")
        refused = anna.run("mount", state, str(anna.mountpoint))
        assert refused.returncode == 5
        assert "piperfs unlock" in refused.stderr
        assert anna.run("unlock", state, stdin="wrong\n").returncode == 5
        anna.piperfs("unlock", state, stdin="correct horse\n")
        anna.mount()
        assert anna.status()["key_protection"] == "keyring"
        assert anna.run("protect", state, stdin="x\n").returncode == 5  # it is in use
        anna.umount()
        assert "Locked" in anna.piperfs("lock", state)
        assert anna.run("status", state).returncode == 5
        secret = tmp_path / "secret"
        secret.write_text("correct horse\n")
        anna.environment["PIPERFS_PASSPHRASE_FILE"] = str(secret)
        assert anna.status()["key_protection"] == "passphrase"
        anna.piperfs("protect", state, "--plain")
        del anna.environment["PIPERFS_PASSPHRASE_FILE"]
        assert anna.status()["key_protection"] == "none"


@pytest.mark.mount
@pytest.mark.slow
def test_commands_about_members_through_daemons(tmp_path: Path) -> None:
    with replicas(tmp_path / "r", "anna", "ben", "shelf") as (anna, ben, shelf):
        anna.init().mount()
        ben.join(anna)
        ben.mount(f"peer={anna.address}")
        ticket = anna.piperfs("invite", str(anna.state), "--role", "store")
        shelf.piperfs("join", str(shelf.state), "-", "--member", "shelf", stdin=ticket)
        refused = shelf.run("mount", str(shelf.state), str(shelf.mountpoint))
        assert refused.returncode == 5
        assert "piperfs serve" in refused.stderr
        words = ("-o", f"listen=127.0.0.1:0,discovery=off,peer={anna.address}")
        shelf.piperfs("serve", str(shelf.state), *words, "--detach")
        (anna.mountpoint / "file").write_text("text")
        anna.piperfs("sync", str(anna.state), "--copies", "2", "--timeout", "30")
        assert shelf.digest() == anna.digest()
        shown = anna.piperfs("members", str(anna.state))
        assert words_of(shelf) in shown
        assert words_of(ben) in shown
        make_reader(anna, ben)
        epoch = anna.piperfs("rotate-keys", str(anna.state))
        assert "New key" in epoch
        anna.piperfs("remove-member", str(anna.state), "ben")
        eventually(lambda: "was removed" in str(ben.status()["peers"]))
        last = anna.run("remove-member", str(anna.state), "anna")
        assert last.returncode == 5
        assert "last admin" in last.stderr
        assert anna.run("set-role", str(anna.state), "shelf", "reader").returncode == 5


def words_of(replica: Replica) -> str:
    """The check words of a replica's own join."""
    shown = replica.piperfs("members", str(replica.state))
    (line,) = [line for line in shown.splitlines() if line.endswith("this computer")]
    return " ".join(line.split()[-8:-2])


def make_reader(anna: Replica, ben: Replica) -> None:
    """Ben's mount becomes read-only while it is in use."""
    (ben.mountpoint / "before").write_text("text")
    anna.piperfs("sync", str(anna.state), "--timeout", "30")
    eventually((anna.mountpoint / "before").exists)
    anna.piperfs("set-role", str(anna.state), "ben", "reader")
    eventually(lambda: ben.status()["role"] == "reader")
    for deed in (
        lambda: (ben.mountpoint / "after").write_text("text"),
        (ben.mountpoint / "before").unlink,
        lambda: (ben.mountpoint / "before").chmod(0o600),
    ):
        with pytest.raises(OSError, match="Read-only"):
            deed()
    assert (ben.mountpoint / "before").read_text() == "text"
    ben.umount()
    ben.mount(f"peer={anna.address}")
    options = subprocess.run(
        ["findmnt", "-no", "OPTIONS", str(ben.mountpoint)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert options.startswith("ro,")


@pytest.mark.parametrize("passphrase", ["", "correct horse"])
def test_a_rotten_key_file_is_called_so(
    keys: Path, monkeypatch: pytest.MonkeyPatch, passphrase: str
) -> None:
    if passphrase:
        (keys.parent / "phrase").write_text(passphrase)
        monkeypatch.setenv("PIPERFS_PASSPHRASE_FILE", str(keys.parent / "phrase"))
    write_keys(keys, SECRETS, os.urandom)
    whole = (keys / FILE).read_bytes()
    for place in range(len(whole)):
        rotten = bytearray(whole)
        rotten[place] ^= 1 << place % 8
        (keys / FILE).write_bytes(rotten)
        with pytest.raises(UserError, match=r"is damaged|is of a newer") as caught:
            read_keys(keys)
        assert caught.value.code is ExitCode.REFUSED
    for short in (b"", whole[:-1], bytes(len(whole))):
        (keys / FILE).write_bytes(short)
        with pytest.raises(UserError, match=r"is damaged .* put a copy of it back"):
            read_keys(keys)
    (keys / FILE).write_bytes(whole)
    assert read_keys(keys)[0] == SECRETS
