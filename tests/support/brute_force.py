"""Every schedule of a tiny run: the least makespan that any decision at any moment could reach.

One GPU, one token an iteration, times as integers. Decisions are taken when the link is idle: at the beginning, when a
copy arrives, when a layer is gated and when it ends. Each is: wait for the next moment, or copy any absent expert into
an open slot or in place of any that is there, not pinned, and has been used since it came (dropping it unused would be
the same as not having fetched it). Demand has no precedence here.
"""

from functools import cache

NEVER = float("inf")
NONE = frozenset()


def least_makespan(events: list[frozenset], slots: int, *, dense: int, expert: int, copy: int) -> float:
    """`events` are the experts of each layer in turn; a layer takes `dense` and then `expert` for each of them."""

    @cache
    def idle(event: int, gate_in: int, waiting: frozenset, busy: int, used: frozenset, fresh: frozenset) -> float:
        """Time left when the link is to decide. `used` and `fresh` are there, `fresh` ones since their last use.

        `gate_in` until the layer is gated, -1 once it has been; then `waiting` are the experts that it misses, and
        the GPU computes for `busy` what it has.
        """
        if event == len(events):
            return 0
        best = flying(event, gate_in, waiting, busy, used, fresh, None, 0)
        pinned = events[event] if gate_in < 0 else NONE
        to_come = events[event + (gate_in < 0) :]
        for fetched in waiting.union(*to_come) - used - fresh:
            victims = used - pinned if len(used) + len(fresh) == slots else [None]
            for victim in victims:
                left = flying(event, gate_in, waiting, busy, used - {victim}, fresh, fetched, copy)
                best = min(best, left)
        return best

    @cache
    def flying(
        event: int,
        gate_in: int,
        waiting: frozenset,
        busy: int,
        used: frozenset,
        fresh: frozenset,
        fetched: int | None,
        arrives: int,
    ) -> float:
        """Time left while `fetched` arrives after `arrives`; None: the link stays idle until the next moment."""
        if event == len(events):
            return 0
        if gate_in >= 0:
            if fetched is not None and arrives <= gate_in:
                return arrives + idle(event, gate_in - arrives, waiting, busy, used, fresh | {fetched})
            need, there = events[event], used | fresh
            computing = expert * len(need & there)
            state = event, -1, need - there, computing, used | (need & fresh), fresh - need
            return gate_in + onward(state, fetched, arrives - gate_in)
        if not waiting and (fetched is None or busy <= arrives):
            state = event + 1, dense, NONE, 0, used, fresh
            return busy + onward(state, fetched, arrives - busy)
        if fetched is None:
            return NEVER  # the layer would wait for ever
        computing = max(busy - arrives, 0)
        if fetched in waiting:
            return arrives + idle(event, -1, waiting - {fetched}, computing + expert, used | {fetched}, fresh)
        return arrives + idle(event, -1, waiting, computing, used, fresh | {fetched})

    def onward(state: tuple, fetched: int | None, arrives: int) -> float:
        return idle(*state) if fetched is None else flying(*state, fetched, arrives)

    return idle(0, dense, NONE, 0, NONE, NONE)
