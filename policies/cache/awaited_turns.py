"""Turns of links, if the prefetches that a layer waits for move one at a time over all links."""

from policies.types import Copy

NOBODY = -1


class AwaitedTurns:
    """The links that wait for their turn to copy a piece that a waiting `layer` needs; one at a time has the turn.

    A link chooses such a piece like any prefetch, and needs the turn to begin it. When the piece that has the turn
    arrives, the turn goes to the link whose expert has already begun, or else has the lowest number. That link chooses
    again. If it begins no awaited piece because it finds no slot, the turn goes on. So whenever a link waits, a piece
    moves.
    """

    def __init__(self) -> None:
        self.layer = NOBODY  # the layer that waits for its plan
        self._waiting: dict[int, tuple[bool, int]] = {}  # by GPU: (has no slot, number of the expert)
        self._turn = NOBODY  # the GPU whose link has the turn and chooses
        self._moving: Copy | None = None

    def begin_wait(self, layer: int) -> None:
        """From now on, a layer waits for what is planned for it."""
        self.layer = layer

    def end_wait(self) -> None:
        """The layer starts; pieces that still move no longer have a turn."""
        self.layer = self._turn = NOBODY
        self._moving = None
        self._waiting.clear()

    def choose(self, gpu: int) -> None:
        """A link chooses, so it no longer waits with its earlier choice."""
        self._waiting.pop(gpu, None)

    def may_begin(self, gpu: int, x: int, *, begun: bool) -> bool:
        """Whether a link may begin the piece that it has chosen, if it finds a slot; if not, it waits for its turn."""
        rank = not begun, x
        if self._turn == NOBODY and self._moving is None and all(rank < other for other in self._waiting.values()):
            self._turn = gpu
        if self._turn == gpu:
            return True
        self._waiting[gpu] = rank
        return False

    def begin(self, copy: Copy) -> None:
        """A piece that had the turn begins to move."""
        self._moving, self._turn = copy, NOBODY

    def end(self, copy: Copy) -> None:
        """A piece has arrived, perhaps one that began without a turn."""
        if copy is self._moving:
            self._moving = None

    def pass_on(self, gpu: int) -> int:
        """A link begins no awaited piece; returns the GPU whose link chooses next, `NOBODY` if none does."""
        if self._turn == gpu:
            self._turn = NOBODY
        if self._moving is not None or self._turn != NOBODY or not self._waiting:
            return NOBODY
        self._turn = min(self._waiting, key=self._waiting.__getitem__)
        return self._turn

    def clear_waiting(self) -> list[int]:
        """The layer gets another plan; returns the GPUs whose links must choose again, in the order of their turns."""
        order = sorted(self._waiting, key=self._waiting.__getitem__)
        self._waiting.clear()
        return order
