"""The table behind the document of anchors: a row for each point and variation, and the facts about the machines.

    runs.csv       a row per run: published, simulated, error
    inputs.json    the routing, the digests and the machines' values with their sources

All numbers in the document are computed from these two files and the anchors.
"""

from dataclasses import dataclass
from typing import ClassVar

from sim.sweeps.run_table import Row, RunTable

BASE = "as assumed"
"""The variation that changes nothing."""

COLUMNS = (
    *("anchor", "point", "variation", "policy", "measured", "unit", "measured_s_per_token", "simulated_s_per_token"),
    *("error", "published_hit_rate", "hit_rate", "hit_or_late_rate", "bytes_per_token", "cache_experts"),
    *("expert_bytes", "output_tokens", "status", "reason", "source"),
)
_TEXTS = ("anchor", "point", "variation", "policy", "unit", "status", "reason", "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorTable(RunTable):
    """Results of the runs. `simulated_s_per_token` is the mean TPOT; `error` its ratio to the measured one minus 1."""

    columns: ClassVar = COLUMNS
    texts: ClassVar = _TEXTS

    def of(self, anchor: str, *, variation: str = BASE) -> list[Row]:
        """The runs of an anchor under one variation, in the order of its points."""
        return [row for row in self.rows if row["anchor"] == anchor and row["variation"] == variation]

    def spread(self, anchor: str, point: str) -> list[Row]:
        """All runs of a point that have an error."""
        of_point = (row for row in self.rows if row["anchor"] == anchor and row["point"] == point)
        return [row for row in of_point if row["error"] is not None]
