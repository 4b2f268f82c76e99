"""Whose turn it is, where the prefetches that a layer waits for move one at a time over all links."""

from policies.types import Copy

NOBODY = -1


class AwaitedTurns:
    """The links that wait with a piece which the `held` layer awaits, one of which has the turn.

    A link chooses such a piece as it chooses any prefetch, and needs the turn to begin it. When the piece that has the
    turn arrives, the turn goes to the link whose expert has begun or else has the lowest number. That one chooses anew:
    if it begins no awaited piece, as it finds no slot, the turn goes on. So whenever a link waits, a piece moves.
    """

    def __init__(self) -> None:
        self.held = NOBODY  # the layer whose plan is awaited
        self._waiting: dict[int, tuple[bool, int]] = {}  # by GPU: (has no slot, number of the expert)
        self._given = NOBODY  # the GPU whose link has the turn and chooses
        self._moving: Copy | None = None

    def hold(self, layer: int) -> None:
        """What is planned for a layer is awaited from now on."""
        self.held = layer

    def let_go(self) -> None:
        """The layer starts; what still moves has no turn any more."""
        self.held = self._given = NOBODY
        self._moving = None
        self._waiting.clear()

    def choose(self, gpu: int) -> None:
        """A link chooses, so that it waits no longer with what it chose before."""
        self._waiting.pop(gpu, None)

    def may_begin(self, gpu: int, x: int, *, begun: bool) -> bool:
        """Whether a link may begin a piece that it has chosen, if it has a slot for it; else it waits for its turn."""
        stands = not begun, x
        if self._given == NOBODY and self._moving is None and all(stands < other for other in self._waiting.values()):
            self._given = gpu
        if self._given == gpu:
            return True
        self._waiting[gpu] = stands
        return False

    def begin(self, copy: Copy) -> None:
        """A piece that may begin moves from now on."""
        self._moving, self._given = copy, NOBODY

    def end(self, copy: Copy) -> None:
        """A piece has arrived, which may have begun without a turn."""
        if copy is self._moving:
            self._moving = None

    def pass_on(self, gpu: int) -> int:
        """A link begins no awaited piece; the GPU whose link chooses next in its place, `NOBODY` if none does."""
        if self._given == gpu:
            self._given = NOBODY
        if self._moving is not None or self._given != NOBODY or not self._waiting:
            return NOBODY
        self._given = min(self._waiting, key=self._waiting.__getitem__)
        return self._given

    def disband(self) -> list[int]:
        """The layer gets another plan: the GPUs whose links have to choose anew, in the order in which they stand."""
        order = sorted(self._waiting, key=self._waiting.__getitem__)
        self._waiting.clear()
        return order
