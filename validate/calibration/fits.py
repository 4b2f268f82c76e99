"""From the times of passes to the tables of a profile: medians, since a machine is never quite idle."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from statistics import median

import numpy as np

from sim.hardware.parts import Contention
from sim.hardware.profile import Table
from validate.calibration.stopwatch import LayerTimes, PassTimes

_HALVINGS = 60  # of an interval that shall be as short as a float can tell


def expert_s(layers: Sequence[LayerTimes]) -> float:
    """One expert, in its place, in layers of passes with one token."""
    return median(after - before for one in layers for before, after in zip(one.given_s, one.computed_s, strict=True))


def held_s(layers: Sequence[LayerTimes]) -> float:
    """What layers take beside their experts where all are in place: deciding, and adding up."""
    return median((one.over_s - one.computed_s[-1]) + (one.given_s[0] - one.gated_s) for one in layers)


def dense(passes: Sequence[PassTimes]) -> tuple[Table, float]:
    """Seconds from one layer's experts to the next layer's gate, by tokens at no attended positions, and per position.

    The latter is the slope over the contexts of passes with one token, and none where noise hides it.
    """
    attended = _attended(passes)
    alone = [(pairs, median(_dense_s(one))) for one, pairs in zip(passes, attended, strict=True) if one.tokens == 1]
    slope = max(0.0, float(np.polyfit([pairs for pairs, _ in alone], [seconds for _, seconds in alone], 1)[0]))
    by_tokens: dict[int, list[float]] = {}
    for one, pairs in zip(passes, attended, strict=True):
        by_tokens.setdefault(one.tokens, []).extend(each - slope * pairs for each in _dense_s(one))
    seconds = {tokens: median(by_tokens[tokens]) for tokens in sorted(by_tokens)}
    least = min(each for each in seconds.values() if each > 0)
    return Table(sizes=tuple(seconds), seconds=tuple(max(each, least) for each in seconds.values())), slope


def head(passes: Sequence[PassTimes]) -> Table:
    """What a pass takes beside its layers, by the requests in it: from its last expert to the next pass and, before
    its first layer, what that takes more than the others.
    """
    by_rows: dict[int, list[float]] = {}
    for one, following in pairwise(passes):
        if not following.first:
            lead_s = one.layers[0].gated_s - one.begun_s - median(_dense_s(one))
            by_rows.setdefault(one.requests, []).append(following.begun_s - one.layers[-1].over_s + lead_s)
    return Table(sizes=tuple(sorted(by_rows)), seconds=tuple(median(by_rows[rows]) for rows in sorted(by_rows)))


def copy_latency_s(
    layers: Sequence[LayerTimes], one_expert_s: float, held: float, moved_s: float, contention: Contention
) -> float:
    """The latency of a copy with which the simulator's rule gives the median duration of layers that copied on demand.

    The rule: hits are computed first; copies follow each other, each with its latency and then `moved_s` for the bytes;
    each expert takes `one_expert_s`, a missing one when it is there; while bytes move and something is computed, both
    are slower by the contention; `held` is on top. So what handing over between threads costs is in the answer.
    """
    found = []
    for one in layers:
        misses = len(one.given_s) - one.hits
        if misses:
            rule = partial(layer_s, one.hits, misses, one_expert_s, moved_s, contention)
            found.append(_where(rule, one.over_s - one.gated_s - held))
    return median(found)


def _where(rising: Callable[[float], float], wanted: float) -> float:
    """Where a function that rises from 0 on reaches what is wanted; 0 if it is above it everywhere."""
    low, high = 0.0, max(wanted, 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if rising(middle) < wanted:
            low = middle
        else:
            high = middle
    return high


def layer_s(hits: int, misses: int, expert_s: float, moved_s: float, contention: Contention, latency_s: float) -> float:
    """How long a layer takes on one GPU, from one change to the next: an expert arrives, bytes begin, all is computed.

    `work_s` is what experts that are there still take alone; a copy has its latency left, then its bytes.
    """
    now_s, work_s, copies = 0.0, hits * expert_s, misses
    waiting_s, bytes_s = latency_s, moved_s
    while copies or work_s:
        moving = copies > 0 and not waiting_s
        computing_slower = contention.compute_slowdown if moving else 1.0
        moving_slower = contention.copy_slowdown if work_s else 1.0
        until_computed_s = work_s * computing_slower if work_s else math.inf
        until_next_s = math.inf if not copies else bytes_s * moving_slower if moving else waiting_s
        passed_s = min(until_computed_s, until_next_s)
        now_s += passed_s
        work_s = max(0.0, work_s - passed_s / computing_slower) if passed_s < until_computed_s else 0.0
        if passed_s < until_next_s:
            bytes_s -= passed_s / moving_slower if moving else 0.0
            waiting_s -= 0.0 if moving else passed_s
        elif not moving:
            waiting_s = 0.0
        else:
            copies, work_s = copies - 1, work_s + expert_s
            waiting_s, bytes_s = latency_s, moved_s
    return now_s


def _dense_s(one: PassTimes) -> list[float]:
    """`[L − 1]`: from the end of each layer's experts to the next layer's gate."""
    return [after.gated_s - before.over_s for before, after in pairwise(one.layers)]


def _attended(passes: Sequence[PassTimes]) -> list[int]:
    """The (token, position) pairs that the attention of each pass scores; prompts of a batch are equally long."""
    answer, context = [], 0
    for one in passes:
        each = one.tokens // one.requests
        context = each if one.first else context + 1
        answer.append(one.requests * (each * (each + 1) // 2 if one.first else context))
    return answer
