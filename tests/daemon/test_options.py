"""Mount options: every word that fstab, mount(8), systemd or a person may write.

The table of generic words is what `man 8 mount` lists as filesystem-independent.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piperfs.core.errors import ExitCode, UserError
from piperfs.core.limits import MIB
from piperfs.daemon.options import Address, Options, parse_address, parse_options, parse_size


def test_no_options_mean_the_defaults():
    assert parse_options("") == parse_options("defaults") == Options()
    assert parse_options("").kernel == ("nosuid", "nodev")


def test_own_options_have_types():
    options = parse_options(
        "listen=[::1]:7000,peer=a.example:1,peer=10.0.0.1:2,discovery=off,ro,allow_other,"
        "cache=500M,metrics=9100,driver=pyfuse3,deadline=2.5"
    )
    assert options == Options(
        listen=Address("::1", 7000),
        peers=(Address("a.example", 1), Address("10.0.0.1", 2)),
        discovery=False,
        read_only=True,
        allow_other=True,
        cache_bytes=500 * MIB,
        metrics_port=9100,
        driver="pyfuse3",
        deadline_s=2.5,
    )


def test_fstab_words_are_taken_or_dropped():
    text = "rw,noauto,nofail,_netdev,x-systemd.automount,x-gvfs-show,comment=a b,async,exec"
    assert parse_options(text) == Options()
    assert parse_options("noexec,noatime").kernel == ("nosuid", "nodev", "noexec", "noatime")
    assert parse_options("user").kernel == ("nosuid", "nodev", "noexec")
    assert parse_options("suid,dev").kernel == ()


@pytest.mark.parametrize(
    ("text", "kernel"),
    [
        ("user,exec", ("nosuid", "nodev")),
        ("exec,user", ("nosuid", "nodev", "noexec")),
        ("user,suid,dev,exec", ()),
        ("suid,dev,users", ("noexec", "nosuid", "nodev")),
        ("suid,dev,owner", ("nosuid", "nodev")),
        ("suid,dev,group,exec", ("nosuid", "nodev")),
        ("noexec,exec", ("nosuid", "nodev")),
        ("exec,noexec", ("nosuid", "nodev", "noexec")),
        ("suid,nosuid", ("nodev", "nosuid")),
        ("dev,nodev", ("nosuid", "nodev")),
        ("sync,async", ("nosuid", "nodev")),
        ("noatime,atime", ("nosuid", "nodev")),
        ("noatime,relatime", ("nosuid", "nodev", "relatime")),
        ("strictatime,noatime", ("nosuid", "nodev", "noatime")),
        ("nodiratime,diratime,nosymfollow,symfollow", ("nosuid", "nodev")),
    ],
)
def test_a_later_generic_word_undoes_an_earlier_one(text: str, kernel: tuple[str, ...]):
    assert parse_options(text).kernel == kernel


def test_the_last_of_ro_and_rw_counts():
    assert not parse_options("ro,rw").read_only
    assert parse_options("rw,ro").read_only
    assert parse_options("ro,defaults").read_only


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("discover=off", "did you mean 'discovery'"),
        ("frobnicate", "unknown option 'frobnicate'"),
        ("listen", "needs a value"),
        ("listen=nowhere", "expected HOST:PORT"),
        ("peer=:77", "expected HOST:PORT"),
        ("peer=h:0", "a port lies in 1..65535"),
        ("peer=h:65536", "a port lies in 1..65535"),
        ("cache=lots", "expected a size"),
        ("metrics=x", "expected HOST:PORT"),
        ("driver=magic", "expected one of"),
        ("deadline=never", "expected seconds"),
        ("deadline=nan", "expected 0.1 to 3600"),
        ("discovery=maybe", "expected on or off"),
        ("remount", "unknown option 'remount'"),
    ],
)
def test_a_wrong_word_is_named(word: str, said: str):
    with pytest.raises(UserError, match=said) as caught:
        parse_options(f"ro,{word}")
    assert caught.value.code is ExitCode.USAGE


def test_a_sloppy_mount_ignores_unknown_words():
    assert parse_options("frobnicate,ro", sloppy=True) == parse_options("ro")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str):
    try:
        parse_options(text)
    except UserError as error:
        assert error.code is ExitCode.USAGE


@given(st.ip_addresses().map(str), st.integers(1, 65535))
def test_an_address_survives_printing(host: str, port: int):
    address = Address(host, port)
    assert parse_address(str(address)) == address


def test_sizes_have_binary_units():
    assert [parse_size(text) for text in ("7", "2K", "3m", "1G")] == [7, 2048, 3 * MIB, 1024 * MIB]
