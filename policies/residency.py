"""What is known of every expert of the model: where it is, who wants it, how far its copy has come."""

from dataclasses import dataclass

from policies.types import ModelShape

ABSENT, COPYING, RESIDENT = 0, 1, 2
NEVER = float("inf")


@dataclass(slots=True)
class Counts:
    """Totals since the start. Copies that began as a prefetch end as useful, promoted, wasted or cancelled."""

    hits: int = 0
    late: int = 0
    misses: int = 0
    prefetched: int = 0
    useful: int = 0  # demanded after they had arrived
    promoted: int = 0  # demanded while they were on their way
    wasted: int = 0  # dropped before anything demanded them
    cancelled: int = 0  # given up between two chunks
    copies: int = 0
    evictions: int = 0
    bytes: int = 0
    peak_slots: int = 0


class Residency:
    """The state of each expert, numbered `layer * J + expert`, shared by the GPUs of an `ExpertCache`."""

    def __init__(self, model: ModelShape) -> None:
        total = model.total_experts
        self.layers, self.experts = model.layers, model.experts
        self.where = bytearray(total)  # ABSENT, COPYING or RESIDENT
        self.pinned = bytearray(total)  # demanded by the running layer
        self.planned = bytearray(total)  # held by the plan of its layer
        self.unused = bytearray(total)  # its copy began as a prefetch, and nothing has demanded it yet
        self.arrived = [0] * total  # chunks
        self.slot = [-1] * total
        self.last_use = [0] * total  # number of the event
        self.layer_now = -1  # last gated layer of the running iteration
        self.pins: list[int] = []
        self.unpin_s = NEVER  # when the pins expire, if that is known ahead
        self.taken = 0  # slots
        self.stalled = 0  # a bit for each GPU whose link found work but no slot that it may take
        self.counts = Counts()

    def unpin(self) -> None:
        """The running layer needs nothing any more."""
        pinned = self.pinned
        for x in self.pins:
            pinned[x] = 0
        self.pins.clear()
        self.unpin_s = NEVER

    def distance(self, layer: int) -> int:
        """Layers from the last gated one to `layer`, which is in the next iteration if it has been gated."""
        distance = layer - self.layer_now
        return distance if distance > 0 else distance + self.layers
