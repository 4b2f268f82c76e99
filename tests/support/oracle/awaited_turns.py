"""Serial loading of the prefetches that a layer waits for: whose turn it is."""

from collections.abc import Callable

from tests.support.oracle.placement import Expert


class AwaitedTurns:
    """The turn of one prefetch wait. Without a layer that waits, nothing needs it."""

    def __init__(self, saw: Callable[[str], None]) -> None:
        self.saw = saw
        self.layer: int | None = None  # that waits
        self.piece: Expert | None = None  # has the turn: it moves, and began in this wait
        self.waiting: dict[int, tuple[bool, int]] = {}  # links that wait for the turn: queued or begun, and the expert
        self.handing_over = False  # the piece that had the turn has arrived, and its link has not chosen yet
        self.given_to: int | None = None  # the link whose turn it is, while it chooses

    def may_begin(self, gpu: int, key: Expert, *, begun: bool) -> bool:
        """Whether a link may begin an awaited piece if it finds a slot; otherwise it waits for the turn."""
        if gpu == self.given_to or (self.piece is None and not self.waiting and not self.handing_over):
            return True
        self.saw("prefetch waited for its turn")
        self.waiting[gpu] = (not begun, key[1])
        return False

    def in_order(self) -> list[int]:
        """The links that wait, the one first whose turn is next."""
        return sorted(self.waiting, key=lambda gpu: self.waiting[gpu])
