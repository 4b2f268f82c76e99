"""Settings of real runs: the model and its devices, and the sizes of a calibration. This module does not need torch."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from annotated_types import Ge
from typing_extensions import override

from common.settings import check
from traces.capture.capture_settings import ModelChoice


@dataclass(frozen=True, slots=True)
class TestbedSettings(ModelChoice):
    """The model to run, and the devices that its experts are copied to."""

    __test__ = False  # despite its name, pytest must not collect it

    _: KW_ONLY
    device: str = "cpu"
    """Kind of device; only cpu so far."""
    devices: Annotated[int, Ge(1)] = 1
    """Number of logical devices, each with its own slots and link."""
    threads: Annotated[int, Ge(1)] | None = None
    """CPU threads. Default: PyTorch's choice; use 1 for small models."""

    @override
    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSettings:
    """The sizes up to which a calibration measures."""

    name: str | None = None
    """Name of the machine in results. Default: that of its devices."""
    max_tokens: Annotated[int, Ge(1)] = 256
    """Longest prompt to time."""
    batch_size: Annotated[int, Ge(1)] = 1
    """Largest batch to time."""

    def __post_init__(self) -> None:
        check(self)
