"""What is known of every expert of the model: where it is, who wants it, how far its copy has come."""

from collections.abc import Sequence
from dataclasses import dataclass

from policies.types import ModelShape

ABSENT, COPYING, RESIDENT = 0, 1, 2
NEVER = float("inf")


@dataclass(slots=True)
class Counts:
    """Totals since the start. Copies that began as a prefetch end as useful, late, wasted or cancelled."""

    hits: int = 0
    late: int = 0  # each promotes a prefetch that was on its way
    misses: int = 0
    prefetched: int = 0
    useful: int = 0  # demanded after they had arrived
    wasted: int = 0  # dropped before anything demanded them
    cancelled: int = 0  # given up between two chunks
    copies: int = 0
    evictions: int = 0
    bytes: int = 0

    @property
    def unused(self) -> int:
        """Prefetched copies that are there, or on their way, and that nothing has demanded yet."""
        return self.prefetched - self.useful - self.late - self.wasted - self.cancelled


class Residency:
    """The state of each expert, numbered `layer * J + expert`, shared by the GPUs of an `ExpertCache`."""

    def __init__(self, model: ModelShape) -> None:
        total = model.total_experts
        self.layers, self.experts = model.layers, model.experts
        self.where = bytearray(total)  # ABSENT, COPYING or RESIDENT
        self.planned = bytearray(total)  # held by the plan of its layer
        self.weight = [0.0] * total  # in that plan; kept for evictors that guard
        self.unused = bytearray(total)  # its copy began as a prefetch, and nothing has demanded it yet
        self.arrived = [0] * total  # chunks of a copy that is under way
        self.slot = [-1] * total
        self.last_use = [0] * total  # `events` then; kept for evictors whose scores may tie
        self.events = 0  # demands and plans so far: until the next one, no expert is planned, withdrawn or touched
        self.layer_now = -1  # last gated layer of the running iteration
        self.pin_base = 0  # number of expert 0 of the running layer
        self.pinned: Sequence[int] = ()  # ids of its experts that were demanded and not released yet
        self.unpin_s = NEVER  # when they are, if that is known ahead
        self.counts = Counts()

    def complete(self) -> bool:
        """Whether all that the running layer demanded and has not released is there."""
        return all(self.where[self.pin_base + expert] == RESIDENT for expert in self.pinned)

    def distance(self, layer: int) -> int:
        """Layers from the last gated one to `layer`, which is in the next iteration if it has been gated."""
        distance = layer - self.layer_now
        return distance if distance > 0 else distance + self.layers
