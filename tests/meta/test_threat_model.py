"""Every threat of the table names tests; that they exist is checked with all pages."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
THREATS = {f"T{number}" for number in range(1, 10)}
PAGE = (ROOT / "packaging/doc/threat-model.md").read_text()


def test_every_threat_is_tested():
    rows = [line.split("|") for line in PAGE.splitlines() if re.match(r"\| T\d \|", line)]
    assert {row[1].strip() for row in rows} == THREATS
    for row in rows:
        assert NAMED.search(row[5]), f"{row[1]} names no test"
