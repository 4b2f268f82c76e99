"""The decision log: every call on the cache with its answer, as a row.

Two drivers that decide alike write the same log, so their logs are compared.
"""

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from policies.cache.expert_cache import ExpertCache

CallName = Literal["begin_iteration", "demand", "release", "plan", "next_copy", "copied"]


class LoggedCall(NamedTuple):
    """A call on the cache and its answer, in plain Python values.

    Fields that a call does not have are -1, False or empty. Layers and experts count from 0; an expert is numbered
    within its layer.

    | call | has |
    |---|---|
    | `begin_iteration` | `requests` |
    | `demand` | `layer`, `experts`, each of them in `hits`, `late` or `misses`, `waves` |
    | `release` | `layer`, `experts` |
    | `plan` | `layer`, `experts`, `weights` |
    | `next_copy` | `gpu`, `layer`, `expert`, `chunk`, `slot`, `victim_layer`, `victim_expert`, `bytes`, `demanded` |
    | `next_copy` that found work but no slot for it | `gpu` |
    | `copied` | `gpu`, `layer`, `expert`, `chunk`, `slot`, `bytes`, `demanded`, `complete` |
    """

    time_s: float  # of a release that was announced in advance: when it takes effect
    call: CallName
    iteration: int  # the last one that began, -1 before the first
    requests: tuple[int, ...] = ()
    gpu: int = -1
    layer: int = -1
    experts: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()  # one per expert
    hits: tuple[int, ...] = ()
    late: tuple[int, ...] = ()
    misses: tuple[int, ...] = ()
    waves: int = -1
    expert: int = -1
    chunk: int = -1  # counts from 0 in its expert
    slot: int = -1
    victim_layer: int = -1  # with `victim_expert`: the expert evicted for the copy, if any
    victim_expert: int = -1
    bytes: int = -1
    demanded: bool = False  # whether the copy is demanded by now: a prefetch under way may be promoted
    complete: bool = False  # it was the last chunk of the expert


class Transfer(NamedTuple):
    """A chunk of an expert on a link; `end_s` is infinite if the log ends before it has arrived."""

    gpu: int
    layer: int
    expert: int
    demanded: bool  # when it was chosen; a prefetch that is demanded later remains a prefetch
    start_s: float
    end_s: float
    complete: bool  # it was the last chunk of the expert


class DecisionLog:
    """Collects a row per call, in the order of the calls."""

    def __init__(self) -> None:
        self.rows: list[LoggedCall] = []
        self._iteration = -1

    def in_time(self) -> list[LoggedCall]:
        """The rows by time; a release that was announced in advance is placed where it takes effect."""
        return sorted(self.rows, key=lambda row: row.time_s)

    def called(self, cache: ExpertCache, now_s: float, call: str, given: Any, answer: Any) -> None:
        """Note one call."""
        if call == "begin_iteration":
            self._iteration = int(given.iteration)
        if call in ("next_copy", "copied"):
            row = _copy_row(float(now_s), self._iteration, call, given, answer, cache.model.experts)
        else:
            row = _row(float(now_s), self._iteration, call, given, answer)
        self.rows.append(row)


def _row(time_s: float, iteration: int, call: str, given: Any, answer: Any) -> LoggedCall:
    if call == "begin_iteration":
        return LoggedCall(time_s, "begin_iteration", iteration, requests=_integers(given.request))
    if call == "plan":
        return LoggedCall(
            time_s,
            "plan",
            iteration,
            layer=int(given.layer),
            experts=_integers(given.experts),
            weights=tuple(map(float, given.weights)),
        )
    if call == "release":
        return LoggedCall(time_s, "release", iteration, layer=int(given[0]), experts=_integers(given[1]))
    return LoggedCall(
        time_s,
        "demand",
        iteration,
        layer=int(given[0]),
        experts=_integers(given[1]),
        hits=_integers(answer.hits),
        late=_integers(answer.late),
        misses=_integers(answer.misses),
        waves=answer.waves,
    )


def _copy_row(time_s: float, iteration: int, call: str, given: Any, answer: Any, experts_per_layer: int) -> LoggedCall:
    if answer is None:
        return LoggedCall(time_s, "next_copy", iteration, gpu=given)
    copied = call == "copied"
    copy = given if copied else answer
    layer, expert = divmod(int(copy.number), experts_per_layer)
    dropped = -1 if copied else copy.victim
    victim_layer, victim_expert = divmod(dropped, experts_per_layer) if dropped >= 0 else (-1, -1)
    return LoggedCall(
        time_s,
        "copied" if copied else "next_copy",
        iteration,
        gpu=copy.gpu,
        layer=layer,
        expert=expert,
        chunk=copy.chunk,
        slot=copy.slot,
        victim_layer=victim_layer,
        victim_expert=victim_expert,
        bytes=copy.bytes,
        demanded=copy.demanded,
        complete=copied and answer,
    )


def _integers(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(map(int, values))


def transfers(rows: Iterable[LoggedCall]) -> list[Transfer]:
    """The transfers of all links by start time: each `next_copy` that chose a chunk, with its `copied`.

    `rows` are in the order of time, as from `DecisionLog.in_time`.
    """
    begun: dict[int, Transfer] = {}  # by GPU; a link carries one chunk at a time
    ended = []
    for row in rows:
        if row.call == "next_copy" and row.slot >= 0:
            begun[row.gpu] = Transfer(
                row.gpu, row.layer, row.expert, row.demanded, row.time_s, math.inf, complete=False
            )
        elif row.call == "copied":
            ended.append(begun.pop(row.gpu)._replace(end_s=row.time_s, complete=row.complete))
    return sorted([*ended, *begun.values()], key=lambda transfer: transfer.start_s)
