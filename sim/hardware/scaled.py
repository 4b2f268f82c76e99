"""A machine with some parts made faster or slower by a factor."""

import hashlib
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Annotated, TypeAlias

from annotated_types import Gt

from common.settings import check, to_data
from common.toml_files import toml_text
from policies.types import ModelShape, Search
from sim.hardware.costs import Cost
from sim.hardware.effects import DemandLoading
from sim.hardware.machine import Machine
from sim.hardware.origins import Origins

Factor: TypeAlias = Annotated[float, Gt(0)]

_PARTS = {
    "link": ("copies", "exchange"),
    "host": ("host memory",),
    "compute": ("computing", "starting operations"),
    "cpu": ("CPU time", "driving"),
    "search": ("searches",),
}
"""The parts of a cost that each factor changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Factors on the speed of a machine's parts: times are divided by the factor, rates multiplied."""

    link: Factor = 1.0
    """Copies from host memory (including latency) and the exchange of activations."""
    host: Factor = 1.0
    """The host memory bandwidth that the links share."""
    compute: Factor = 1.0
    """Attention, experts and head, including the time to start them."""
    cpu: Factor = 1.0
    """The serving framework's CPU time, and the time to drive the offloading."""
    search: Factor = 1.0
    """Searches and store updates."""

    def __post_init__(self) -> None:
        check(self)

    def changed(self) -> dict[str, float]:
        """The factors that are not 1."""
        factors = {each.name: float(getattr(self, each.name)) for each in fields(self)}
        return {name: factor for name, factor in factors.items() if factor != 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledMachine:
    """A `Machine` with the scaled costs of another machine."""

    name: str
    machine: Machine
    scale: Scale

    @property
    def gpus(self) -> int:
        return self.machine.gpus

    @property
    def links(self) -> int:
        return self.machine.links

    @property
    def demand_loading(self) -> DemandLoading:
        return self.machine.demand_loading

    @property
    def gpu_memory_bytes(self) -> float | None:
        return self.machine.gpu_memory_bytes

    @property
    def digest(self) -> str | None:
        """SHA-256 of the machine's digest, the name and the factors."""
        if self.machine.digest is None:
            return None
        data = {"name": self.name, "machine": self.machine.digest, "scale": to_data(self.scale)}
        return hashlib.sha256(toml_text(data).encode()).hexdigest()

    @property
    def origins(self) -> Origins:
        """The machine's origins; scaled parts are assumed."""
        scaled = {part for factor in self.scale.changed() for part in _PARTS[factor]}
        before = self.machine.origins
        return {part: ("assumed",) if found and part in scaled else found for part, found in before.items()}

    def cost(self, model: ModelShape) -> "ScaledCost":
        return ScaledCost(self.machine.cost(model), self.scale)

    def describe(self) -> str:
        """`rtx3090x6 (6 × RTX 3090) with link × 2`."""
        factors = (f"{name} × {factor:g}" for name, factor in self.scale.changed().items())
        return f"{self.machine.describe()} with {', '.join(factors)}"


class ScaledCost:
    """The costs of another `Cost`, each divided by the factor of its part."""

    def __init__(self, cost: Cost, scale: Scale) -> None:
        self._cost = cost
        self._scale = scale
        self.launch_s = cost.launch_s / scale.compute
        self.driving_s = cost.driving_s / scale.cpu
        self.effects = replace(
            cost.effects,
            host_bytes_per_s=cost.effects.host_bytes_per_s * scale.host,
            layer_host_s=cost.effects.layer_host_s / scale.cpu,
            expert_host_s=cost.effects.expert_host_s / scale.cpu,
        )
        self.expert_s = cache(self._expert_s)

    def dense_s(self, tokens: int, context: int, attended: int) -> float:
        return self._cost.dense_s(tokens, context, attended) / self._scale.compute

    def _expert_s(self, tokens: int) -> float:
        """Called as `expert_s`, which caches it."""
        return self._cost.expert_s(tokens) / self._scale.compute

    def exchange_s(self, tokens: int) -> float:
        return self._cost.exchange_s(tokens) / self._scale.link

    def head_s(self, rows: int) -> float:
        return self._cost.head_s(rows) / self._scale.compute

    def copy_s(self, size_bytes: int) -> float:
        return self._cost.copy_s(size_bytes) / self._scale.link

    def copy_latency_s(self, size_bytes: int) -> float:
        return self._cost.copy_latency_s(size_bytes) / self._scale.link

    def least_copy_s(self, size_bytes: int) -> float:
        return self._cost.least_copy_s(size_bytes) / self._scale.link

    def search_s(self, search: Search) -> float:
        return self._cost.search_s(search) / self._scale.search
