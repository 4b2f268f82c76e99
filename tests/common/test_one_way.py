"""One way to write, one Parquet encoding, one look: what `common` does, no other package does by hand."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("common", "policies", "traces", "sim", "validate", "benchmarks")

BY_HAND = {
    "common/files.py": r"\bos\.fsync\b|\brmtree\b|\bmkdtemp\b|\bNamedTemporaryFile\b|\bos\.replace\b",
    "common/parquet.py": r"\bParquetWriter\(|\.to_parquet\(|\bpq\.write_table\b",
    "common/tables.py": r"\b(from|import) tabulate\b",
    "common/figures.py": r"\bFigureCanvas|\bFigure\(|\bpyplot\b|\.savefig\(|#[0-9a-fA-F]{6}\b",
}


def lines_with(pattern: str, only: str) -> Iterator[str]:
    """Where a pattern is found outside the file that it belongs to."""
    for place in PLACES:
        for path in sorted((ROOT / place).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if name != only and re.search(pattern, line):
                    yield f"{name}:{number}: {line.strip()}"


@pytest.mark.parametrize("home", BY_HAND)
def test_nothing_else_reimplements_common(home: str) -> None:
    assert list(lines_with(BY_HAND[home], home)) == []
