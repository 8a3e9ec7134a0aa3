"""What the pure packages may import, as a list of what is allowed rather than of what is not.

import-linter keeps the layers and the homes of libraries; this closes the rest of the standard
library to code that must behave the same for the same arguments.
"""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VALUES = {
    "abc", "base64", "binascii", "bisect", "collections", "contextlib", "dataclasses", "enum",
    "errno", "fnmatch", "functools", "hashlib", "heapq", "hmac", "itertools", "math", "operator",
    "re", "stat", "string", "struct", "types", "typing", "unicodedata", "datetime",
}  # fmt: skip
ALLOWED = {"core": VALUES, "protocol": VALUES, "fs": VALUES | {"os"}}  # fs: names of constants
FILES = [(package, path) for package in ALLOWED for path in (ROOT / "piperfs" / package).glob("*")]


@pytest.mark.parametrize(
    ("package", "path"),
    [(package, path) for package, path in FILES if path.suffix == ".py"],
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_pure_packages_import_values_only(package: str, path: Path):
    used = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            used |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            used.add(node.module.partition(".")[0])
    assert used & set(sys.stdlib_module_names) <= ALLOWED[package]
