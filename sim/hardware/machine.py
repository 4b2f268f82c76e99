"""What every machine offers, whether described by data sheets, measured by a calibration, or real."""

from typing import Protocol

from policies.types import ModelShape
from sim.hardware.costs import Cost
from sim.hardware.effects import DemandLoading
from sim.hardware.origins import Origins


class Machine(Protocol):
    """GPUs (or logical devices) of one kind, each with a link from host memory that carries its experts."""

    @property
    def name(self) -> str:
        """The machine's name in results."""
        ...

    @property
    def gpus(self) -> int:
        """The number of GPUs."""
        ...

    @property
    def links(self) -> int:
        """The number of links from host memory; copies over different links run in parallel."""
        ...

    @property
    def demand_loading(self) -> DemandLoading:
        """Whether demanded experts move over all links at once, or one after another."""
        ...

    @property
    def gpu_memory_bytes(self) -> float | None:
        """Memory of each GPU; None if unknown, in which case no cache is too large."""
        ...

    @property
    def digest(self) -> str | None:
        """SHA-256 of every figure that times are computed from; None if times are measured."""
        ...

    @property
    def origins(self) -> Origins:
        """Whether each part of the costs was measured, stated or assumed."""
        ...

    def cost(self, model: ModelShape) -> Cost:
        """The costs of the parts of an iteration of `model` on this machine.

        Raises a `UserError` if they cannot be computed: for a profile of another model, or a real machine.
        """
        ...

    def describe(self) -> str:
        """A description for headings."""
        ...
