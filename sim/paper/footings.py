"""The two footings on which systems are compared: all alike, and close to the FineMoE authors' released code."""

from dataclasses import dataclass
from typing import Literal

FootingName = Literal["even", "released"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Footing:
    """How copies that a layer waits for move, and what counts as a hit."""

    name: FootingName
    title: str
    hit_rate: str
    """The column of a run's summary that counts as the hit rate."""
    figures: str = ""
    """What the text of a machine gets behind its name."""

    def machine(self, base: str) -> str:
        """The text of a machine on this footing."""
        return f"{base},{self.figures}" if self.figures else base


EVEN = Footing(name="even", title="even footing", hit_rate="hit_rate")
"""Demanded experts come over all links at once. A hit is on its GPU when the router has spoken."""
RELEASED = Footing(name="released", title="as released", hit_rate="hit_or_late_rate", figures="demand_loading=serial")
"""What a layer waits for moves one after the other. An expert in flight counts as a hit, as in two of the three
counters of the released demo. Of the demo's loading only demanded experts are known to come in turn; that prefetches
that a layer waits for do, too, is our extension (docs/simulator.md)."""
FOOTINGS = (EVEN, RELEASED)
