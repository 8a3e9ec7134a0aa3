"""What is printed: whatever others put into names, a line stays a line, and JSON is exact."""

import json
from typing import Any

import pytest

from piperfs.cli import output, show
from piperfs.cli.main import piperfs

EVIL = "evil\n\x1b[31manna  admin\x1b]0;PWNED\a\u202e\x9b"
ESCAPED = r"evil\x0a\x1b[31manna  admin\x1b]0;PWNED\x07\xe2\x80\xae\xc2\x9b"


def member(name: str) -> dict[str, Any]:
    return {
        "name": name, "removed": False, "role": "writer", "replica": "0" * 32, "joined": "today",
        "check_words": None, "here": False, "succeeds": None, "forked_at": None, "held": 0,
        "proposals": (f"remove {name}",),
    }  # fmt: skip


def test_what_a_terminal_would_obey_is_escaped(capsys: pytest.CaptureFixture[str]):
    output.line(EVIL)
    output.note(EVIL)
    output.error(EVIL)
    output.table(("A", "B"), [(EVIL, None)])
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [ESCAPED, f"{'A'.ljust(len(ESCAPED))}  B", f"{ESCAPED}  -"]
    assert printed.err.splitlines() == [ESCAPED, f"piperfs: {ESCAPED}"]


def test_what_people_write_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]):
    for text in ("Zoë's café", "写真\u3000二", "10\u00a0km", "back\\slash"):
        output.line(text)
        assert capsys.readouterr().out == f"{text}\n"
    output.line("caf\udce9")
    assert capsys.readouterr().out == "caf\\xe9\n"


def test_a_list_of_members_shows_one_line_for_each_and_json_the_very_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(show, "ask", lambda *_: [member("anna"), member(EVIL)])
    show.members.main(["home"], standalone_mode=False)
    text = capsys.readouterr().out
    assert len(text.splitlines()) == 5
    assert all(char.isprintable() for line in text.splitlines() for char in line)
    show.members.main(["home", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)[1]["name"] == EVIL


def test_who_is_not_connected_may_have_been_met():
    assert show._in_sync({"in_sync": None}) == "unknown: no other member is connected"


def test_every_volume_is_completed():
    for command in piperfs.commands.values():
        for parameter in command.params:
            if parameter.name == "volume":
                assert parameter._custom_shell_complete is not None, command.name


def test_an_answer_of_many_lines_keeps_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(show, "ask", lambda *_: "a 1\nb 2\n")
    show.metrics.main(["home"], standalone_mode=False)
    assert capsys.readouterr().out == "a 1\nb 2\n"
