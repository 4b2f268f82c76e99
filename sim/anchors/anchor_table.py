"""The table behind the document of anchors: a row for each point and variation, and what is known of the machines.

    runs.csv       a row per run: published, simulated, error
    inputs.json    the routing, the digests and the machines' figures with their sources

Everything that the document says of numbers is computed from these two and the anchors.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from common.files import replacing, write_json

RUNS, INPUTS = "runs.csv", "inputs.json"
BASE = "as assumed"
"""The variation that changes nothing."""
Row: TypeAlias = Mapping[str, Any]

COLUMNS = (
    *("anchor", "point", "variation", "policy", "measured", "unit", "measured_s_per_token", "simulated_s_per_token"),
    *("error", "published_hit_rate", "hit_rate", "hit_or_late_rate", "bytes_per_token", "cache_experts"),
    *("expert_bytes", "output_tokens", "status", "reason", "source"),
)
_TEXTS = ("anchor", "point", "variation", "policy", "unit", "status", "reason", "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorTable:
    """What the runs gave. `simulated_s_per_token` is the mean TPOT; `error` is it over the measured one, less 1."""

    rows: Sequence[Row]
    inputs: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(map(_typed, self.rows)))

    def of(self, anchor: str, *, variation: str = BASE) -> list[Row]:
        """The runs of an anchor under one variation, in the order of its points."""
        return [row for row in self.rows if row["anchor"] == anchor and row["variation"] == variation]

    def spread(self, anchor: str, point: str) -> list[Row]:
        """All runs of a point that have an error."""
        of_point = (row for row in self.rows if row["anchor"] == anchor and row["point"] == point)
        return [row for row in of_point if row["error"] is not None]

    def write(self, folder: Path) -> None:
        """Put both files into a folder, in place of those that are there."""
        with replacing(folder / RUNS, "the table") as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        with replacing(folder / INPUTS, "the inputs") as partial:
            write_json(partial, self.inputs, sort=False)

    @classmethod
    def read(cls, folder: Path) -> "AnchorTable":
        """What `write` put there."""
        with (folder / RUNS).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return cls(rows=rows, inputs=json.loads((folder / INPUTS).read_text(encoding="utf-8")))


def _typed(row: Row) -> dict[str, Any]:
    """All columns, numbers as `float`, and None for what is not there."""
    found: dict[str, Any] = {}
    for name in COLUMNS:
        value = row.get(name)
        found[name] = None if value is None or value == "" else value if name in _TEXTS else float(value)
    return found
