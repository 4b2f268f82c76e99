"""Machines and costs with effects of a test's own, whatever describes them."""

from dataclasses import dataclass

from policies.types import ModelShape
from sim.hardware.costs import Cost
from sim.hardware.effects import Effects
from sim.hardware.machine import Machine


@dataclass(frozen=True)
class AffectedCost:
    """Costs as they are, with these effects."""

    cost: Cost
    effects: Effects

    def __getattr__(self, name):
        return getattr(self.cost, name)


@dataclass(frozen=True)
class Affected:
    """A machine as it is, whose costs have these effects."""

    machine: Machine
    effects: Effects

    def cost(self, model: ModelShape) -> AffectedCost:
        return AffectedCost(self.machine.cost(model), self.effects)

    def __getattr__(self, name):
        return getattr(self.machine, name)
