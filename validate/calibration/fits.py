"""Turn the times of passes into the tables of a profile; uses medians, since a machine is never quite idle."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from statistics import median

import numpy as np

from sim.hardware.parts import Contention
from sim.hardware.profile import Table
from validate.calibration.stopwatch import LayerTimes, PassTimes

_HALVINGS = 60  # of an interval, until it is as short as a float can resolve


def expert_s(layers: Sequence[LayerTimes]) -> float:
    """Seconds of one expert as it runs within layers, from passes with one token."""
    return median(after - before for one in layers for before, after in zip(one.given_s, one.computed_s, strict=True))


def slowest_over_fastest(layers: Sequence[LayerTimes], repeats: int) -> float:
    """How many times as long an expert takes in the slowest of successive `repeats` as in the fastest."""
    each = len(layers) // repeats
    seconds = [expert_s(layers[start : start + each]) for start in range(0, each * repeats, each)]
    return max(seconds) / min(seconds)


def overhead_s(layers: Sequence[LayerTimes]) -> float:
    """Seconds of a layer beside its experts if all are resident: decisions and the sum of contributions."""
    return median((one.over_s - one.computed_s[-1]) + (one.given_s[0] - one.gated_s) for one in layers)


def dense(passes: Sequence[PassTimes]) -> tuple[Table, float]:
    """Seconds from one layer's experts to the next layer's gate, by tokens at no attended positions, and per position.

    The latter is the slope over the contexts of passes with one token, or 0 if noise hides it.
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
    """Seconds of a pass beside its layers, by its number of requests.

    From its last expert to the next pass, plus the extra time before its first layer compared with the other layers.
    """
    by_rows: dict[int, list[float]] = {}
    for one, following in pairwise(passes):
        if not following.first:
            lead_s = one.layers[0].gated_s - one.begun_s - median(_dense_s(one))
            by_rows.setdefault(one.requests, []).append(following.begun_s - one.layers[-1].over_s + lead_s)
    return Table(sizes=tuple(sorted(by_rows)), seconds=tuple(median(by_rows[rows]) for rows in sorted(by_rows)))


def copy_latency_s(
    layers: Sequence[LayerTimes], one_expert_s: float, overhead: float, moved_s: float, contention: Contention
) -> float:
    """The copy latency with which the simulator's rule gives the median duration of layers that copied on demand.

    The rule: hits are computed first. Copies follow one another, each with its latency and then `moved_s` for the
    bytes. Each expert takes `one_expert_s`, a missing one after it has arrived. While bytes move and something is
    computed, contention slows both. `overhead` is added. So the latency includes the cost of handing over between
    threads.
    """
    found = []
    for one in layers:
        misses = len(one.given_s) - one.hits
        if misses:
            rule = partial(layer_s, one.hits, misses, one_expert_s, moved_s, contention)
            found.append(_where(rule, one.over_s - one.gated_s - overhead))
    return median(found)


def _where(rising: Callable[[float], float], wanted: float) -> float:
    """The argument, from 0 on, at which a rising function reaches `wanted`; 0 if it is above it everywhere."""
    low, high = 0.0, max(wanted, 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if rising(middle) < wanted:
            low = middle
        else:
            high = middle
    return high


def layer_s(hits: int, misses: int, expert_s: float, moved_s: float, contention: Contention, latency_s: float) -> float:
    """Seconds of a layer on one GPU, stepped from event to event: an expert arrives, bytes begin, all is computed.

    `work_s` is the time that resident experts still take alone. A copy first has its latency left, then its bytes.
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
    """The number of (token, position) pairs that each pass attends to; prompts of a batch are equally long."""
    answer, context = [], 0
    for one in passes:
        each = one.tokens // one.requests
        context = each if one.first else context + 1
        answer.append(one.requests * (each * (each + 1) // 2 if one.first else context))
    return answer
