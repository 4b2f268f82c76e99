"""The grid of machines, caches and readings that is tried where the paper does not describe its testbed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from sim.paper.study import TESTBED
from sim.paper.tiers import Tier

Loading = Literal["parallel", "serial"]

WHOLE_LAYERS, ACTIVATED_EXPERTS = "whole layers", "activated experts"
ON_ITS_GPU, OR_IN_FLIGHT = "on its GPU", "there or in flight"

READINGS: Mapping[str, Sequence[str]] = {
    "MoE-Infinity": ("paper", "code"),
    "Mixtral-Offloading": ("paper", "code"),
    "DeepSpeed": (WHOLE_LAYERS, ACTIVATED_EXPERTS),
    "a hit": (ON_ITS_GPU, OR_IN_FLIGHT),
}
"""Possible readings of the paper's words: two forms of three baselines, and which experts count as hits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PossibleTestbed:
    """The paper's first testbed with other rates and times."""

    link_gb_per_s: float
    """Rate of each of the six links, in 1e9 bytes per second; the paper states 32."""
    layer_ms: float
    """CPU time of the serving framework per layer; the GPUs wait for it."""
    loading: Loading
    """Whether experts that a layer waits for come over all links at once, or one after the other."""

    @property
    def machine(self) -> str:
        """The machine as text."""
        figures = [f"host_link.bytes_per_s={self.link_gb_per_s * 1e9:g}", f"framework.layer_s={self.layer_ms / 1e3:g}"]
        return ",".join([TESTBED, *figures, f"demand_loading={self.loading}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class GridOfTestbeds:
    """The machines and caches that are simulated, in every combination."""

    link_gb_per_s: Sequence[float]
    layer_ms: Sequence[float]
    loadings: Sequence[Loading] = ("parallel", "serial")
    cache_gb: Sequence[float]
    """Caches for figure 10, which does not state its own; must include 6 GB, the cache of figure 12."""
    requests: int
    """Test requests per trace."""
    check_link_gb_per_s: Sequence[float] = ()
    """Rates between those of the grid, simulated with the least and the most time per layer and the smallest cache.
    They are not points; they check the interpolation."""

    def testbeds(self) -> list[PossibleTestbed]:
        """Every machine."""
        return self._machines(self.link_gb_per_s, self.layer_ms)

    def checks(self) -> list[PossibleTestbed]:
        """The machines between them."""
        return self._machines(self.check_link_gb_per_s, sorted({min(self.layer_ms), max(self.layer_ms)}))

    def _machines(self, links: Sequence[float], layers: Sequence[float]) -> list[PossibleTestbed]:
        return [
            PossibleTestbed(link_gb_per_s=link, layer_ms=layer, loading=loading)
            for link, layer, loading in product(links, layers, self.loadings)
        ]


FULL = GridOfTestbeds(
    link_gb_per_s=(8.0, 32.0),
    layer_ms=(0.0, 4.0, 8.0),
    cache_gb=(6.0, 12.0, 24.0),
    requests=1,
    check_link_gb_per_s=(12.8,),  # half-way in 1 / rate, farthest from the simulated rates
)
"""Times are nearly linear in 1 / rate and in time per layer, so a few points suffice (`testbed_between.py`). The report
states the error of interpolation."""
QUICK = GridOfTestbeds(link_gb_per_s=(8.0, 32.0), layer_ms=(0.0, 8.0), cache_gb=(6.0,), requests=1)
KICK_THE_TIRES = GridOfTestbeds(link_gb_per_s=(32.0,), layer_ms=(0.0,), cache_gb=(6.0,), requests=1)


def grid_of(tier: Tier) -> GridOfTestbeds:
    """The grid of a tier."""
    return {"full": FULL, "quick": QUICK, "kick-the-tires": KICK_THE_TIRES}[tier.name]
