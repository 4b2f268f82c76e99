"""Turns of demanded experts, if these move one at a time over all links."""

from heapq import heappop, heappush

from policies.types import Copy


class DemandTurns:
    """The demanded experts that wait for a link, in the order in which they move, one after the other.

    The rest of late experts, which have slots, comes before experts without a slot; each kind in rising order. Only the
    first may begin, once its link is idle and it has a slot; meanwhile no other does. An expert without a slot waits
    for experts being computed on its GPU. These already have all they need, so there is no deadlock.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[bool, int, int]] = []  # a heap of (has no slot, number of the expert, its GPU)
        self._moving: Copy | None = None

    def wait(self, x: int, gpu: int, *, begun: bool) -> None:
        """Queue a demanded expert; `begun` means that part of it has been copied, so it has a slot."""
        heappush(self._waiting, (not begun, x, gpu))

    def may_begin(self, x: int) -> bool:
        """Whether a waiting expert has the turn."""
        return self._moving is None and self._waiting[0][1] == x

    def begin(self, copy: Copy) -> None:
        """The expert that has the turn begins to move."""
        heappop(self._waiting)
        self._moving = copy

    def end(self, copy: Copy) -> int:
        """A copy has arrived; returns the GPU of the expert that has the next turn, -1 if there is none."""
        if copy is not self._moving:
            return -1  # a prefetch, which may have been promoted while under way
        self._moving = None
        return self._waiting[0][2] if self._waiting else -1
