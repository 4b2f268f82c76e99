"""The parts of a data-sheet machine: GPU, links, host, framework, efficiencies and contention."""

import math
from dataclasses import dataclass, fields
from typing import Annotated, TypeAlias

from annotated_types import Ge, Gt

from common.errors import FieldError
from common.settings import OrInfinite, check
from sim.hardware.curve import Curve, best_share_up_to, check_curve, share_at
from sim.hardware.effects import Effects

Rate: TypeAlias = Annotated[float, Gt(0), OrInfinite()]  # per second; infinite if it takes no time
Seconds: TypeAlias = Annotated[float, Ge(0)]
Slowdown: TypeAlias = Annotated[float, Ge(1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Peak rates of one GPU."""

    name: str
    flops_per_s: Rate
    """16-bit matrix products with 32-bit sums."""
    memory_bytes_per_s: Rate
    memory_bytes: Annotated[float, Gt(0)]
    overhead_s: Seconds
    """The time to start one operation: attention, one expert, or the head."""

    def __post_init__(self) -> None:
        check(self)
        check_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of a connection."""

    bytes_per_s: Rate
    """The peak rate; `efficiency` is the share of it that a copy reaches."""
    latency_s: Seconds
    efficiency: Curve = ()
    """Shares of `bytes_per_s` by the bytes of a copy."""

    def __post_init__(self) -> None:
        check(self)
        check_curve(self.efficiency, "efficiency")

    def copy_s(self, size_bytes: float) -> float:
        """Seconds to move so many bytes in one piece."""
        return self.latency_s + size_bytes / (self.bytes_per_s * share_at(self.efficiency, size_bytes))

    def least_copy_s(self, size_bytes: float) -> float:
        """A lower bound for so many bytes in pieces of any size: one latency, and the best rate of any piece."""
        return self.latency_s + size_bytes / (self.bytes_per_s * best_share_up_to(self.efficiency, size_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRates:
    """How fast the predictor's processor compares a query with a store."""

    overhead_s: Seconds
    """Per search."""
    bytes_per_s: Rate
    """The rate of reading the store."""
    flops_per_s: Rate

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The memory that experts are copied from."""

    memory_bytes_per_s: Rate = math.inf
    """The bandwidth that the links share."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """CPU time of the serving framework; the GPUs wait for it."""

    layer_s: Seconds = 0.0
    """Time in each layer, before its attention."""
    expert_s: Seconds = 0.0
    """Time to launch each expert of a layer, after the gate."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Shares of the GPU's peak rates that operations reach, by their tokens (for the head, by its rows)."""

    dense_flops: Curve = ()
    dense_memory: Curve = ()
    expert_flops: Curve = ()
    expert_memory: Curve = ()
    head_flops: Curve = ()
    head_memory: Curve = ()

    def __post_init__(self) -> None:
        check(self)
        for each in fields(self):
            check_curve(getattr(self, each.name), each.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contention:
    """How copies and computing on one GPU slow each other down while both run."""

    compute_slowdown: Slowdown = 1.0
    """Factor on computing time."""
    copy_slowdown: Slowdown = 1.0
    """Factor on the time of moving bytes."""

    def __post_init__(self) -> None:
        check(self)


def effects_of(host: Host, framework: Framework, contention: Contention) -> Effects:
    """The effects of host memory, framework and contention on an iteration."""
    return Effects(
        host_bytes_per_s=host.memory_bytes_per_s,
        layer_host_s=framework.layer_s,
        expert_host_s=framework.expert_s,
        compute_slowdown=contention.compute_slowdown,
        copy_slowdown=contention.copy_slowdown,
    )


def check_name(name: str) -> None:
    """Raise a `FieldError` unless the name is printable."""
    if not name or not name.isprintable():
        raise FieldError("name", f"must be a printable name, not {name!r}")
