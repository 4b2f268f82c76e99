"""What a machine is, whether data sheets describe it, a calibration measured it, or a run takes place on it."""

from typing import Protocol

from policies.types import ModelShape
from sim.hardware.costs import Cost
from sim.hardware.effects import DemandLoading
from sim.hardware.origins import Origins


class Machine(Protocol):
    """GPUs (or logical devices) of one kind, each with a link from host memory over which its experts come."""

    @property
    def name(self) -> str:
        """What results call it."""
        ...

    @property
    def gpus(self) -> int:
        """How many there are."""
        ...

    @property
    def links(self) -> int:
        """Links from host memory; copies over different links run side by side."""
        ...

    @property
    def demand_loading(self) -> DemandLoading:
        """Whether demanded experts come over all links at once, or one after the other."""
        ...

    @property
    def gpu_memory_bytes(self) -> float | None:
        """Memory of each GPU; None where it is not stated, and then no size of a cache is too large."""
        ...

    @property
    def digest(self) -> str | None:
        """SHA-256 of every figure that times are computed from; None where they are measured."""
        ...

    @property
    def origins(self) -> Origins:
        """For each part of what things cost here, whether it was measured, stated or assumed."""
        ...

    def cost(self, model: ModelShape) -> Cost:
        """What the parts of an iteration of `model` cost here.

        A `UserError` if there is nothing to compute it from: a profile of another model, or a machine on which times
        are measured.
        """
        ...

    def describe(self) -> str:
        """The machine as a heading calls it."""
        ...
