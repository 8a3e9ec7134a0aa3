"""Documents that cannot fall behind: what the code has, its page must name, and links must lead.

Each test says which page lacks what. Examples in Python are run as doctests; the commands of the
README are run by `tests/packaging/test_tools.py`.
"""

import ast
import doctest
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import click
import pytest

from piperfs.cli.main import piperfs
from piperfs.core.errors import ExitCode
from piperfs.daemon.options import option_names
from piperfs.protocol import messages
from piperfs.store.schema import NAMES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "packaging/doc").glob("*.md"))
ALL_PAGES = [ROOT / "README.md", *PAGES]
MANUALS = sorted((ROOT / "packaging/man").glob("*.[18]"))
SOURCES = sorted((ROOT / "piperfs").rglob("*.py"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TEST_ID = re.compile(r"`?(tests/[\w/]+\.py)(?:::(\w+))?`?")
HYPHENS = {0x2010: "-", 0x2212: "-"}  # as groff sets them
LOG_LEVELS = {"debug", "info", "warning", "error", "exception"}


def page(name: str) -> str:
    return (ROOT / "packaging/doc" / name).read_text()


@cache
def manual(name: str) -> str:
    """A manual page as its reader sees it."""
    groff = ["groff", "-man", "-Tutf8", "-P-c", "-rLL=200n", ROOT / "packaging/man" / name]
    shown = subprocess.run(groff, capture_output=True, text=True, check=True).stdout
    return re.sub(r".\x08", "", shown).translate(HYPHENS)


@cache
def calls() -> list[ast.Call]:
    trees = (ast.parse(path.read_text()) for path in SOURCES)
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]


def first_text(call: ast.Call) -> str | None:
    value = call.args[0] if call.args else None
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    return None


def test_the_manual_names_every_command_and_option():
    text = manual("piperfs.1")
    for name, command in piperfs.commands.items():
        assert f"piperfs {name} " in text, f"piperfs(1) lacks the command {name}"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                for flag in parameter.opts:
                    assert flag in text, f"piperfs(1) lacks {flag} of {name}"


@pytest.mark.parametrize("name", sorted(option_names()))
def test_every_mount_option_is_explained(name: str):
    assert re.search(rf"^\s+.*\b{name}\b", manual("piperfs.1"), re.MULTILINE)
    assert f"`{name}" in page("operations.md") or f"`no{name}`" in page("operations.md")


def test_the_manual_names_every_exit_code():
    status = manual("piperfs.1").partition("EXIT STATUS")[2].partition("ENVIRONMENT")[0]
    assert re.findall(r"^\s+(\d)\s", status, re.MULTILINE) == [str(int(code)) for code in ExitCode]


@pytest.mark.parametrize("path", MANUALS, ids=lambda path: path.name)
def test_manuals_are_well_formed(path: Path):
    done = subprocess.run(
        [shutil.which("groff") or "groff", "-man", "-ww", "-z", path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def metric_of(call: ast.Call) -> str:
    """The name under which a number is given: Prometheus marks what counts up."""
    counts_up = any(word.arg == "counts_up" for word in call.keywords)
    return f"{first_text(call)}{'_total' if counts_up else ''}"


def test_the_metrics_that_are_explained_are_those_that_are_given():
    samples = [c for c in calls() if isinstance(c.func, ast.Name) and c.func.id == "Sample"]
    given = {metric_of(call) for call in samples if first_text(call) is not None}
    _, _, text = page("operations.md").partition("| metric, after `piperfs_` |")
    table, _, advice = text.partition("\n\n")
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == given
    named = re.findall(r"`(\w+)", advice.partition("\n\n")[0])
    assert len(named) > 4
    assert set(named) <= given


def test_every_event_is_explained():
    events = {
        text
        for call in calls()
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in LOG_LEVELS
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "log"
        and (text := first_text(call))
    }
    documented = set(re.findall(r"^\| `(\w+\.\w+)` \|", page("operations.md"), re.MULTILINE))
    assert events <= documented, "explain it in packaging/doc/operations.md"


def test_every_message_is_in_the_protocol():
    rows = re.findall(r"^\| `([\w-]+)` \| ([\w, ]*)\|", page("protocol.md"), re.MULTILINE)
    documented = {tag: fields.strip().split(", ") if fields.strip() else [] for tag, fields in rows}
    actual = {
        kind.__struct_config__.tag: list(kind.__struct_fields__)
        for kind in messages.Message.__args__  # type: ignore[attr-defined]
    }
    assert documented == actual


def test_vectors_are_what_is_sent():
    rows = re.findall(r"^\| [^|]+ \| `([0-9a-f]{10,})` \|$", page("protocol.md"), re.MULTILINE)
    assert len(rows) > 4
    for text in rows:
        frame = bytes.fromhex(text)
        assert messages.encode(messages.decode(frame[4:])) == frame


def test_every_table_of_the_store_is_explained():
    documented = re.findall(r"^\| `(\w+)` \| ", page("format.md"), re.MULTILINE)
    assert [name for name in NAMES if name not in documented] == []


@pytest.mark.parametrize("path", ALL_PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path):
    for target in LINK.findall(path.read_text()):
        place, _, anchor = target.partition("#")
        if "://" in place:
            continue
        goal = (path.parent / place) if place else path
        assert goal.exists(), f"{path.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", goal.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", t).replace(" ", "-").lower() for t in titles}


@pytest.mark.parametrize("path", ALL_PAGES, ids=lambda path: path.name)
def test_a_page_has_one_title_and_fits_its_examples(path: Path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    assert text.startswith("# ")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_named_tests_exist(path: Path):
    for file, function in TEST_ID.findall(path.read_text()):
        assert (ROOT / file).exists(), f"{path.name} names {file}"
        if function:
            found = f"def {function}(" in (ROOT / file).read_text()
            assert found, f"{path.name} names {file}::{function}"


@pytest.mark.parametrize("path", ALL_PAGES, ids=lambda path: path.name)
def test_examples_in_python_hold(path: Path):
    result = doctest.testfile(str(path), module_relative=False, encoding="utf-8")
    assert result.failed == 0


def test_every_page_can_be_found():
    reachable = {target for path in ALL_PAGES for target in LINK.findall(path.read_text())}
    names = {Path(target.partition("#")[0]).name for target in reachable}
    lost = [path.name for path in PAGES if path.name not in names]
    assert lost == [], "link it from README.md or from another page"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 700


def test_every_dependency_has_a_reason_and_a_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = (ROOT / "packaging/constraints.txt").read_text().lower().replace("_", "-")
    for name in needed:
        assert re.search(rf"\b{name}\b", page("dependencies.md"), re.IGNORECASE), name
        assert f"{name.lower()}==" in pinned, name


def test_no_reason_outlives_its_dependency():
    """Every library in the table of dependencies is really one of ours."""
    project = (ROOT / "pyproject.toml").read_text().lower()
    for name in re.findall(r"^\| ([\w-]+) \|", page("dependencies.md"), re.MULTILINE)[1:]:
        assert name.lower() in project, f"dependencies.md explains {name}, which is not used"
