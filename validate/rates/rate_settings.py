"""What is measured of a machine. Nothing here needs torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from common.settings import check


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSettings:
    """The device to measure, and how thoroughly."""

    device: Literal["cuda", "cpu"] = "cuda"
    """The kind of device; the CPU is a rehearsal, on which host memory and device memory are the same."""
    name: str | None = None
    """Name of the machine in results (default: its device)."""
    repeats: Annotated[int, Ge(1)] = 5
    """How often each time is taken; the median counts."""
    quick: bool = False
    """Measure a few small sizes only, to see that everything works."""

    def __post_init__(self) -> None:
        check(self)
