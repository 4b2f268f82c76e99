"""The decision log: every call on the cache with its answer, as a row.

Two drivers that decide alike write the same log, so it is what they are compared by.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from policies.cache.expert_cache import ExpertCache

Row = tuple[float, str, int, int, list[int], str]


class Transfer(NamedTuple):
    """A chunk of an expert on a link; `end_s` is infinite if the log ends before it has arrived."""

    gpu: int
    layer: int
    expert: int
    demanded: bool  # when it was chosen; a prefetch that is demanded on its way stays one
    start_s: float
    end_s: float
    complete: bool  # it was the last chunk of the expert


class DecisionLog:
    """Collects rows of `COLUMNS`; -1 stands where a call names no GPU or no layer."""

    COLUMNS = ("time_s", "call", "gpu", "layer", "experts", "answer")

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def in_time(self) -> list[Row]:
        """The rows by time; a release that was announced ahead stands where it holds."""
        return sorted(self.rows, key=lambda row: row[0])

    def called(self, cache: ExpertCache, now_s: float, call: str, given: Any, answer: Any) -> None:
        """Note one call."""
        if call == "begin_iteration":
            self._add(now_s, call, -1, -1, given.request.tolist(), f"iteration {given.iteration}")
        elif call == "demand":
            layer, experts = given
            told = f"hits {answer.hits} late {answer.late} misses {answer.misses} waves {answer.waves}"
            self._add(now_s, call, -1, layer, experts, told)
        elif call == "release":
            self._add(now_s, call, -1, given[0], given[1], "")
        elif call == "plan":
            self._add(now_s, call, -1, given.layer, given.experts, f"weights {list(given.weights)}")
        elif call == "next_copy" and answer is None:
            self._add(now_s, call, given, -1, [], "no slot" if cache.devices[given].stalled else "nothing")
        elif call == "next_copy":
            told = f"chunk {answer.chunk} slot {answer.slot} victim {answer.victim} demanded {answer.demanded}"
            layer, expert = divmod(answer.number, cache.model.experts)
            self._add(now_s, call, given, layer, [expert], told)
        else:
            layer, expert = divmod(given.number, cache.model.experts)
            self._add(now_s, call, given.gpu, layer, [expert], "complete" if answer else "in part")

    def _add(self, now_s: float, call: str, gpu: int, layer: int, experts: Sequence[int], answer: str) -> None:
        self.rows.append((now_s, call, gpu, layer, list(experts), answer))


def transfers(rows: Iterable[Row]) -> list[Transfer]:
    """What the links carried, by the time it began: each `next_copy` that chose a chunk, with its `copied`.

    `rows` are in time, as `DecisionLog.in_time` gives them.
    """
    begun: dict[int, Transfer] = {}  # by GPU; a link carries one chunk at a time
    answer = []
    for time_s, call, gpu, layer, experts, told in rows:
        if call == "next_copy" and layer >= 0:
            demanded = told.endswith("demanded True")
            begun[gpu] = Transfer(gpu, layer, experts[0], demanded, time_s, math.inf, complete=False)
        elif call == "copied":
            answer.append(begun.pop(gpu)._replace(end_s=time_s, complete=told == "complete"))
    return sorted([*answer, *begun.values()], key=lambda transfer: transfer.start_s)
