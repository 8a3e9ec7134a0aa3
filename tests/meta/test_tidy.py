"""Tidiness that linters do not check: sizes, empty packages, leftovers, first words, dead files.

Each failure names the file and says what is asked for.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 500
LEFTOVERS = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")))
SENTENCE_END = re.compile(r"[.?!](\s|$)")


def python_files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))]
    return [path for path in found if path.suffix == ".py" or _is_script(path)]


def _is_script(path: Path) -> bool:
    if path.suffix or not path.is_file():
        return False
    return path.read_bytes().startswith(b"#!/usr/bin/env python3")


PRODUCT = python_files("piperfs")
OWN = python_files("piperfs", "tools")
ALL = python_files("piperfs", "tools", "tests")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_stay_short():
    long = {name(path): len(path.read_text().splitlines()) for path in OWN}
    assert {file: lines for file, lines in long.items() if lines > FILE_LINES_MAX} == {}


def test_functions_stay_short():
    long = {
        f"{name(path)}:{function.name}": length
        for path in OWN
        for function in functions(path)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert long == {}


def test_packages_hold_no_code_of_their_own():
    for path in PRODUCT:
        if path.name == "__init__.py":
            body = tree(path).body
            assert len(body) == 1, f"{name(path)}: only a docstring, please"
            assert isinstance(body[0], ast.Expr)


def test_nothing_is_left_for_later():
    for path in ALL:
        found = LEFTOVERS.search(path.read_text())
        assert found is None, f"{name(path)}: {found}: do it now, or write it down in an issue"


@pytest.mark.parametrize("path", OWN, ids=name)
def test_modules_say_why_they_are_there(path: Path):
    text = ast.get_docstring(tree(path))
    assert text, "a module begins with a docstring"
    if path.name not in ("__init__.py", "piperfs") and "\n" in text:
        assert len(SENTENCE_END.findall(text)) >= 2, "two sentences: what, and why"


def test_every_module_is_used():
    """Something imports it, or it is what a command or a script begins with."""
    started = {"piperfs.__main__", "piperfs.daemon.__main__", "piperfs.daemon.mounter",
               "piperfs.daemon.unit_mount"}  # fmt: skip
    scripts = re.findall(r'= "(piperfs[\w.]+):', (ROOT / "pyproject.toml").read_text())
    used = {*started, *scripts, *(module for path in ALL for module in imports(path))}
    unused = [
        name(path)
        for path in PRODUCT
        if path.name != "__init__.py"
        and ".".join(path.relative_to(ROOT).with_suffix("").parts) not in used
    ]
    assert unused == []


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
