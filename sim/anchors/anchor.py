"""An anchor: a measurement that others published, and the runs that simulate it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from policies.types import ModelShape

Unit = Literal["s per token", "tokens/s"]

MACHINES = Path(__file__).with_name("machines")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorPoint:
    """One published number and the run that simulates it."""

    name: str
    measured: float
    """In the unit of its anchor."""
    policy: str
    cache_gb: float | None = None
    """Gigabytes of experts that fit on the GPU. Either this or `cache_experts` is set."""
    cache_experts: int | None = None
    bits: float = 16.0
    """Average bits per expert weight."""
    machine: str = ""
    """Changes to the anchor's machine, such as `copies=pageable`."""
    hit_rate: float | None = None
    """The published hit rate: the replayed demands are built to have it. None: a trace of routing is replayed."""
    assumed: str
    """Assumptions about the run that the source does not state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """An alternative value of one unknown setting."""

    name: str
    meaning: str
    machine: str = ""
    """Changes to the anchor's machine."""
    policy: str | None = None
    bits: float | None = None
    cache_gb: float | None = None
    cache_experts: int | None = None
    points: Sequence[str] | None = None
    """The points to which it applies; None: all."""

    def applies_to(self, point: AnchorPoint) -> bool:
        """Whether it applies to a point."""
        return self.points is None or point.name in self.points


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Published measurements of one model on one machine."""

    key: str
    title: str
    unit: Unit
    source: str
    """Publication with the numbers."""
    url: str
    shape: ModelShape
    machine: str
    """A data sheet in `machines/`."""
    known: Sequence[str]
    """Facts about the set-up from the source."""
    assumed: Sequence[str]
    """Assumptions, beside the values of the machine, where the source is silent."""
    points: Sequence[AnchorPoint]
    variations: Sequence[Variation]
    reading: Sequence[str]
    """Possible explanations of errors: mechanisms that the simulator does not model or that the source leaves open."""
    unpacked: bool = True
    """Whether quantised experts are unpacked to 16 bits for computing, or read as they are copied."""
    tokens: int | None = None
    """The number of tokens in a replayed stream of demands."""

    @property
    def sheet(self) -> Path:
        """The data sheet of its machine."""
        return MACHINES / f"{self.machine}.toml"

    @property
    def replays_routing(self) -> bool:
        """Whether any point needs a trace of routing."""
        return any(point.hit_rate is None for point in self.points)

    def seconds(self, value: float) -> float:
        """A value in the anchor's unit as seconds per token."""
        return value if self.unit == "s per token" else 1 / value
