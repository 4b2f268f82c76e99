"""The two footings on which systems are compared: the same rules for all, or close to the authors' released code."""

from dataclasses import dataclass
from typing import Literal

FootingName = Literal["even", "released"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Footing:
    """How demanded copies use the links, and what counts as a hit."""

    name: FootingName
    title: str
    hit_rate: str
    """The column of a run's summary that counts as the hit rate."""
    figures: str = ""
    """Appended to the name of a machine."""

    def machine(self, base: str) -> str:
        """The text of a machine on this footing."""
        return f"{base},{self.figures}" if self.figures else base


EVEN = Footing(name="even", title="even", hit_rate="hit_rate")
"""Demanded experts come over all links at once. An expert is a hit if it is on its GPU when the router decides."""
RELEASED = Footing(name="released", title="released", hit_rate="hit_or_late_rate", figures="demand_loading=serial")
"""Copies that a layer waits for move one after the other. An expert in flight counts as a hit, as in two of the three
counters of the released demo. The demo is only known to load demanded experts one by one; doing the same for prefetches
that a layer waits for is our extension (docs/simulator.md)."""
FOOTINGS = (EVEN, RELEASED)
