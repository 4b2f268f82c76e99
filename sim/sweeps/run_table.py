"""A table of runs behind a document, and facts about their inputs.

    runs.csv       a row per run
    inputs.json    the inputs, with their digests

The document is computed from these two files alone, so it can be written again without running anything.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

from common.files import replacing, write_json

RUNS, INPUTS = "runs.csv", "inputs.json"
Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTable:
    """Rows with all columns: numbers as `float`, and None for missing values."""

    columns: ClassVar[Sequence[str]]
    texts: ClassVar[Sequence[str]]
    """The columns with texts; all others have numbers."""

    rows: Sequence[Row]
    inputs: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(map(self._typed, self.rows)))

    def write(self, folder: Path) -> None:
        """Write both files into a folder, replacing older ones."""
        with replacing(folder / RUNS, "the table") as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        with replacing(folder / INPUTS, "the inputs") as partial:
            write_json(partial, self.inputs, sort=False)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read both files from a folder."""
        with (folder / RUNS).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return cls(rows=rows, inputs=json.loads((folder / INPUTS).read_text(encoding="utf-8")))

    @classmethod
    def _typed(cls, row: Row) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in cls.columns:
            value = row.get(name)
            found[name] = None if value is None or value == "" else value if name in cls.texts else float(value)
        return found
