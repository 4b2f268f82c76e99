"""Whose turn it is, where demanded experts move one at a time over all links."""

from heapq import heappop, heappush

from policies.types import Copy


class DemandTurns:
    """The demanded experts that wait for a link, in the order in which they move, one after the other.

    What is left of late experts, which have their slots, comes before experts that have none; each kind in rising
    order. Only the first may begin, once its link is idle and it has a slot; meanwhile nobody else does. An expert that
    has no slot yet waits for those that are computed on its GPU, which have all they need, so turns never end.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[bool, int, int]] = []  # a heap of (has no slot, number of the expert, its GPU)
        self._moving: Copy | None = None

    def wait(self, x: int, gpu: int, *, begun: bool) -> None:
        """Queue a demanded expert; `begun` if a part of it has been copied, so that it has a slot."""
        heappush(self._waiting, (not begun, x, gpu))

    def may_begin(self, x: int) -> bool:
        """Whether it is the turn of an expert that waits."""
        return self._moving is None and self._waiting[0][1] == x

    def begin(self, copy: Copy) -> None:
        """The expert whose turn it is moves from now on."""
        heappop(self._waiting)
        self._moving = copy

    def end(self, copy: Copy) -> int:
        """A copy has arrived; the GPU of the expert whose turn begins with that, -1 if none does."""
        if copy is not self._moving:
            return -1  # of a prefetch, which may have been promoted on its way
        self._moving = None
        return self._waiting[0][2] if self._waiting else -1
