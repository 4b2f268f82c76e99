"""What an anchor is: a published measurement of others, and what of it is simulated."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from policies.types import ModelShape

Unit = Literal["s per token", "tokens/s"]

MACHINES = Path(__file__).with_name("machines")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorPoint:
    """One published number, and the run that stands for it."""

    name: str
    measured: float
    """In the unit of its anchor."""
    policy: str
    cache_gb: float | None = None
    """Gigabytes of experts that fit on the GPU; this or `cache_experts` is given."""
    cache_experts: int | None = None
    bits: float = 16.0
    """Of an expert's weights, on average."""
    machine: str = ""
    """Figures that differ from the anchor's machine: `copies=pageable`."""
    hit_rate: float | None = None
    """Where it is published: the demands that are replayed then have it. Otherwise a trace of routing is replayed."""
    assumed: str
    """What of the run the source does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """One thing that is not known, as it might also be."""

    name: str
    meaning: str
    machine: str = ""
    """Figures of the machine, in place of the anchor's."""
    policy: str | None = None
    bits: float | None = None
    cache_gb: float | None = None
    cache_experts: int | None = None
    points: Sequence[str] | None = None
    """The points that it means something to; None: all."""

    def applies_to(self, point: AnchorPoint) -> bool:
        """Whether it says anything of a point."""
        return self.points is None or point.name in self.points


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Published measurements of one model on one machine."""

    key: str
    title: str
    unit: Unit
    source: str
    """Where the numbers are published."""
    url: str
    shape: ModelShape
    machine: str
    """A data sheet in `machines/`."""
    known: Sequence[str]
    """What the source says of the set-up."""
    assumed: Sequence[str]
    """What is assumed because it does not, beside the figures of the machine."""
    points: Sequence[AnchorPoint]
    variations: Sequence[Variation]
    reading: Sequence[str]
    """What may explain an error: mechanisms that the simulator does not model, or that the source leaves open."""
    unpacked: bool = True
    """Whether quantised experts are computed with in 16 bits, or read as they are copied."""
    tokens: int | None = None
    """How many tokens a replayed stream of demands has."""

    @property
    def sheet(self) -> Path:
        """The file of its machine."""
        return MACHINES / f"{self.machine}.toml"

    @property
    def replays_routing(self) -> bool:
        """Whether any point needs a trace of routing."""
        return any(point.hit_rate is None for point in self.points)

    def seconds(self, value: float) -> float:
        """A value in the anchor's unit as seconds per token."""
        return value if self.unit == "s per token" else 1 / value
