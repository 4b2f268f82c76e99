"""Settings of the measurement of a machine. This module does not need torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from common.files import Contents
from common.settings import check

SHEET, MEASUREMENTS = "machine.toml", "measurements.json"
RATE_FILES = Contents(MEASUREMENTS, "checked", (SHEET,))
"""The files in the folder of measured rates; only such a folder is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSettings:
    """The device to measure, and how thoroughly."""

    device: Literal["cuda", "cpu"] = "cuda"
    """Kind of device. On cpu this is only a rehearsal, because host and device memory are the same."""
    name: str | None = None
    """Name of the machine in results. Default: that of its device."""
    repeats: Annotated[int, Ge(1)] = 5
    """Repeats of each measurement; the median is used."""
    quick: bool = False
    """Measure only a few small sizes, to check that everything works."""

    def __post_init__(self) -> None:
        check(self)
