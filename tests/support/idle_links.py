"""Whether a link was ever idle while a copy waited that it could make, from the decision log alone."""

from collections.abc import Iterator, Sequence

from policies.cache.decision_log import LoggedCall
from policies.types import ModelShape

TOGETHER_S = 1e-12  # calls that are no further apart happen at one moment


class LinkWatch:
    """Follows a log in time, of evictors that do not guard, and says at each moment which link is idle in vain.

    If demands are `serial`, one at a time moves, of all links. If layers are `awaiting` what is planned for them, this
    is true of their prefetches, too: a link may wait with one of the next layer while one moves that has begun since
    the last layer ended.
    """

    def __init__(
        self, model: ModelShape, slots: Sequence[int], *, serial: bool = False, awaiting: bool = False
    ) -> None:
        self._layers, self._experts = model.layers, model.experts
        self._slots = slots
        self._serial = serial
        self._awaiting = serial and awaiting
        self._between_layers = True
        gpus = range(len(slots))
        self._moving: list[int] = [-1 for _ in gpus]  # the expert whose piece moves on each link
        self._by_demand = [False for _ in gpus]  # whether what moves was demanded when it began
        self._in_wait = [False for _ in gpus]  # whether it is for the next layer and began since the last one ended
        self._present: list[set[int]] = [set() for _ in gpus]  # experts with a slot
        self._arrived: set[int] = set()
        self._demanded: list[list[int]] = [[] for _ in gpus]
        self._queued: dict[int, set[int]] = {}  # by layer, of what its plan holds
        self._plan: dict[int, set[int]] = {}
        self._pinned: set[int] = set()
        self._computed: set[int] = set()
        self._now = -1  # last gated layer
        self.idle_moments = 0  # at which something waited for an idle link

    def follow(self, rows: Sequence[LoggedCall]) -> Iterator[str]:
        """What was wrong, a line each; `rows` are in time."""
        for row, following in zip(rows, [*rows[1:], None], strict=True):
            getattr(self, f"_saw_{row.call}")(row)
            if following is not None and following.time_s > row.time_s + TOGETHER_S:
                for gpu, expert in self._in_vain():
                    yield f"after {row.time_s} s link {gpu} is idle and could copy {expert}"

    def _in_vain(self) -> Iterator[tuple[int, int]]:
        for gpu, moving in enumerate(self._moving):
            if moving >= 0:
                continue
            begun = self._present[gpu] - self._arrived  # between two chunks
            rests = begun & self._pinned
            if demanded := [*sorted(rests), *self._demanded[gpu]]:
                self.idle_moments += 1
                x = demanded[0]
                if (x in rests or self._has_slot(gpu, 0)) and (not self._serial or x == self._in_turn()):
                    yield gpu, x
                continue
            if self._waits_for_turn(gpu, begun):
                self.idle_moments += 1
                continue
            self._present[gpu] -= begun  # cancelled, or else
            yield from ((gpu, x) for x in begun if self._planned(x))
            waiting = [x for some in self._queued.values() for x in some if self._on(x, gpu)]
            self.idle_moments += bool(waiting)
            yield from ((gpu, x) for x in waiting if self._has_slot(gpu, self._distance(x)))

    def _in_turn(self) -> int:
        """The demanded expert that may move next, of all links; -1 while one moves that was demanded when it began."""
        if any(self._by_demand):
            return -1
        moving = set(self._moving)
        rests = set().union(*self._present) - self._arrived - moving
        return min(rests & self._pinned or {x for demanded in self._demanded for x in demanded})

    def _waits_for_turn(self, gpu: int, begun: set[int]) -> bool:
        """Whether an idle link may wait with what the next layer awaits, as another piece of it moves."""
        queued = {x for x in self._queued.get(self._now + 1, ()) if self._on(x, gpu)}
        begun = {x for x in begun if self._planned(x) and x // self._experts == self._now + 1}
        return self._awaiting and any(self._in_wait) and bool(queued | begun)

    def _has_slot(self, gpu: int, distance: int) -> bool:
        present = self._present[gpu]
        return len(present) < self._slots[gpu] or any(
            x in self._arrived
            and x not in self._pinned
            and not (distance and self._planned(x) and self._distance(x) <= distance)
            for x in present
        )

    def _planned(self, x: int) -> bool:
        return x in self._plan.get(x // self._experts, ())

    def _distance(self, x: int) -> int:
        return (x // self._experts - self._now - 1) % self._layers + 1

    def _on(self, x: int, gpu: int) -> bool:
        return x % len(self._slots) == gpu

    def _numbers(self, row: LoggedCall) -> set[int]:
        return {row.layer * self._experts + expert for expert in row.experts}

    def _saw_begin_iteration(self, row: LoggedCall) -> None:
        self._now = -1
        self._between_layers = True

    def _saw_demand(self, row: LoggedCall) -> None:
        self._now = row.layer
        self._between_layers = False
        self._in_wait = [False for _ in self._slots]
        self._plan[row.layer], self._queued[row.layer] = set(), set()
        self._pinned, self._computed = self._numbers(row), set()
        for expert in row.misses:
            x = row.layer * self._experts + expert
            self._demanded[x % len(self._slots)].append(x)

    def _saw_release(self, row: LoggedCall) -> None:
        """What is computed loses its pin when nothing of the layer on its GPU is still to be computed."""
        self._computed |= self._numbers(row)
        self._between_layers = self._pinned <= self._computed
        for gpu, present in enumerate(self._present):
            if not (self._pinned - self._computed) & present:
                self._pinned -= {x for x in self._computed if self._on(x, gpu)}

    def _saw_plan(self, row: LoggedCall) -> None:
        begun = set().union(*self._present)
        self._plan[row.layer] = planned = self._numbers(row)
        self._queued[row.layer] = planned - begun - {x for demanded in self._demanded for x in demanded}

    def _saw_next_copy(self, row: LoggedCall) -> None:
        if row.slot < 0:
            return
        x, present = row.layer * self._experts + row.expert, self._present[row.gpu]
        victim = row.victim_layer * self._experts + row.victim_expert
        if not row.demanded:
            present -= present - self._arrived - {x}  # cancelled between two chunks
        if victim >= 0:
            present.discard(victim)
            self._arrived.discard(victim)
        if len(present | {x}) > self._slots[row.gpu]:
            present -= present - self._arrived  # cancelled: the demand takes its slot
        present.add(x)
        self._moving[row.gpu], self._by_demand[row.gpu] = x, row.demanded
        self._in_wait[row.gpu] = self._between_layers and not row.demanded and row.layer == self._now + 1
        if x in self._demanded[row.gpu]:
            self._demanded[row.gpu].remove(x)
        self._queued.get(row.layer, set()).discard(x)

    def _saw_copied(self, row: LoggedCall) -> None:
        self._moving[row.gpu], self._by_demand[row.gpu], self._in_wait[row.gpu] = -1, False, False
        if row.complete:
            self._arrived.add(row.layer * self._experts + row.expert)
