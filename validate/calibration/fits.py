"""From the times of passes to the tables of a profile: medians, since a machine is never quite idle."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np

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


def effective_copy_s(layers: Sequence[LayerTimes], one_expert_s: float, held: float) -> float:
    """Seconds per copy with which the simulator's rule gives the median duration of layers that copied on demand.

    The rule: hits are computed first, the i-th missing expert arrives after i copies, each takes `one_expert_s`, and
    `held` is on top. So what handing over between threads costs is in the answer.
    """
    copies = [(one.hits, len(one.given_s) - one.hits, one.over_s - one.gated_s - held) for one in layers]
    return median(_copy_s(hits, misses, seconds, one_expert_s) for hits, misses, seconds in copies if misses)


def _copy_s(hits: int, misses: int, seconds: float, one_expert_s: float) -> float:
    low, high = 0.0, seconds
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _layer_s(hits, misses, middle, one_expert_s) < seconds:
            low = middle
        else:
            high = middle
    return high


def _layer_s(hits: int, misses: int, copy_s: float, one_expert_s: float) -> float:
    busy_s = hits * one_expert_s
    for arrived in range(1, misses + 1):
        busy_s = max(busy_s, arrived * copy_s) + one_expert_s
    return busy_s


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
