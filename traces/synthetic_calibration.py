"""The coefficients of the synthetic model that give the statistics which are asked for.

Each layer is solved by itself on a sample of pairs of tokens, from the parts that all tokens share to those that only
neighbours do: more of a part raises its own statistic and leaves those that were solved before it as they are.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from math import sqrt
from typing import Any

import numpy as np

from policies.types import Bool
from traces.entropy import entropy_bits
from traces.synthetic import (
    Coefficients,
    Parameters,
    Patterns,
    Single,
    Statistics,
    first_patterns,
    only,
    softmax,
    top,
)

PAIRS = 2048  # of tokens: a share that is the mean of so many has a standard error of at most 0.011
_NEAR = 1e-3  # to the target is near enough
_STEPS = 20  # at most, of a search
_ROUNDS = 3  # of popularity and clusters in turn: the one changes the other a little
_LONGEST_MEMORY = 0.8  # ρ, unless overlaps with the iteration before ask for more: 3 % of it are left after 16
_STREAM = 9


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The coefficients, and what they give on the sample: not what was asked for where that is impossible."""

    coefficients: Coefficients
    expected: Statistics
    lookahead: dict[int, float]  # distance -> share of executed experts in its top K, mean over target layers


def calibrate(
    parameters: Parameters, progress: Callable[[Sequence[int]], Iterable[int]] = lambda layers: layers
) -> Calibration:
    """Solve every layer; `progress` may watch them go by."""
    patterns = first_patterns(parameters)
    solved = [_solve(parameters, patterns, layer) for layer in progress(range(parameters.shape.layers))]
    names = [one.name for one in fields(Coefficients) if one.name != "lookahead"]
    known = {name: np.array([one[name] for one, _ in solved]) for name in names}
    lookahead, recall = {}, {}
    for distance in parameters.lookahead:
        ahead = [one["lookahead"][distance] for one, _ in solved[distance:]]
        lookahead[distance] = np.array([kept for kept, _ in ahead])
        recall[distance] = float(np.mean([found for _, found in ahead]))
    expected = Statistics(**{one.name: tuple(found[one.name] for _, found in solved) for one in fields(Statistics)})
    return Calibration(coefficients=Coefficients(**known, lookahead=lookahead), expected=expected, lookahead=recall)


def _solve(parameters: Parameters, patterns: Patterns, layer: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Coefficients and expected statistics of a layer."""
    asked = parameters.statistics
    sample = _Sample(parameters, patterns, layer)
    popularity = cluster = 0.0
    for _ in range(_ROUNDS):
        # With what a cluster shares given, popularity takes its part of that, or more.
        popularity = solve(partial(sample.load_cv, cluster), asked.load_cv[layer], 0, 1)
        cluster = popularity
        if parameters.clusters > 1:
            cluster = solve(partial(sample.cluster_overlap, popularity), asked.cluster_overlap[layer], popularity, 1)
    sample.fix(popularity, cluster)
    request = solve(sample.request_overlap, asked.request_overlap[layer], cluster, 1)
    # How alike an iteration and the next are in what the request does not explain. Token and rest share that, and only
    # the rest remembers: it must be left enough not to have to remember for too long.
    following = solve(partial(sample.overlap, request), asked.overlap[layer], -1, 1)
    free = (1 - abs(following) / max(abs(following), _LONGEST_MEMORY)) * (1 - request)
    own = solve(sample.token_overlap, asked.token_overlap[layer], cluster, cluster + free) - cluster
    # Within their bounds in spite of rounding.
    token = min(1.0, request + max(0.0, own))
    memory = min(1.0, max(-1.0, following * (1 - request) / (1 - token))) if token < 1 else 0.0
    exponent = solve(lambda power: -sample.entropy(request, 10**power), -asked.entropy_bits[layer], -3, 4)
    sharpness = 10**exponent
    found = {
        "entropy_bits": sample.entropy(request, sharpness),
        "overlap": sample.overlap(request, following),
        "request_overlap": sample.request_overlap(request),
        "cluster_overlap": sample.cluster_overlap(popularity, cluster),
        "token_overlap": sample.token_overlap(cluster + own),
        "load_cv": sample.load_cv(cluster, popularity),
    }
    ahead = {}
    for distance, recall in parameters.lookahead.items():
        kept = solve(lambda one: sample.recall(request, one), recall, 0, 1)
        ahead[distance] = kept, sample.recall(request, kept)
    known = {
        "popularity": popularity,
        "cluster": cluster,
        "request": request,
        "token": token,
        "memory": memory,
        "sharpness": sharpness,
        "lookahead": ahead,
    }
    return known, found


def solve(function: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where a rising function has nearly the value `target`; the nearer end where it never has.

    By false position (Illinois): as safe as bisection, in half the steps.
    """
    below, above = function(low) - target, function(high) - target
    if above <= 0:
        return high
    if below >= 0:
        return low
    for _ in range(_STEPS):
        middle = (low * above - high * below) / (above - below)
        found = function(middle) - target
        if abs(found) < _NEAR:
            break
        if found < 0:
            low, below, above = middle, found, above / 2
        else:
            high, above, below = middle, found, below / 2
    return middle


class _Sample:
    """Pairs of tokens in one layer, the same random numbers whatever the coefficients are."""

    def __init__(self, parameters: Parameters, patterns: Patterns, layer: int) -> None:
        self._top_k = parameters.shape.top_k
        self._complete = parameters.gate_complete
        rng = np.random.default_rng([parameters.seed, _STREAM, layer])
        self._request, self._one, self._other = rng.standard_normal((3, PAIRS, parameters.shape.experts), np.float32)
        self._popularity = patterns.popularity[layer]
        cluster = np.arange(PAIRS) % parameters.clusters
        moved = (rng.random(PAIRS) < parameters.topic_change) * rng.integers(1, max(parameters.clusters, 2), PAIRS)
        self._cluster = patterns.clusters[cluster, layer]
        self._next_cluster = patterns.clusters[(cluster + moved) % parameters.clusters, layer]

    def fix(self, popularity: float, cluster: float) -> None:
        """Keep what tokens of one cluster share, for all that is asked below."""
        self._share = cluster
        self._fixed = self._common(popularity, cluster, self._cluster)
        self._next_fixed = self._common(popularity, cluster, self._next_cluster)

    def load_cv(self, cluster: float, popularity: float) -> float:
        one, other = self._in_cluster(popularity, max(cluster, popularity))
        load = one.mean(axis=0) + other.mean(axis=0)
        return float(load.std() / load.mean())

    def cluster_overlap(self, popularity: float, cluster: float) -> float:
        return self._shared(*self._in_cluster(popularity, cluster))

    def request_overlap(self, request: float) -> float:
        same, own = self._in_request(request)
        return self._shared(self._executed(same + own * self._one), self._executed(same + own * self._other))

    def token_overlap(self, share: float) -> float:
        """Of tokens whose logits correlate by `share`, being of one cluster, with requests of their own."""
        alike = (share - self._share) / (1 - self._share) if self._share < 1 else 0.0
        own, again = sqrt(1 - self._share), alike * self._one + sqrt(1 - alike**2) * self._other
        return self._shared(self._executed(self._fixed + own * self._one), self._executed(self._fixed + own * again))

    def overlap(self, request: float, alike: float) -> float:
        """Of an iteration and the next, whose parts that are not the request's correlate by `alike`."""
        same, own = self._in_request(request)
        following = alike * self._one + sqrt(1 - alike**2) * self._other
        moved = same - self._fixed + self._next_fixed
        return self._shared(self._executed(same + own * self._one), self._executed(moved + own * following))

    def entropy(self, request: float, sharpness: float) -> float:
        same, own = self._in_request(request)
        logits = same + own * self._one
        gate = softmax(logits, sharpness)
        return float(entropy_bits(gate if self._complete else only(gate, top(logits, self._top_k))).mean())

    def recall(self, request: float, kept: float) -> float:
        same, own = self._in_request(request)
        logits = same + own * self._one
        return self._shared(self._executed(logits), self._executed(kept * logits + sqrt(1 - kept**2) * self._other))

    def _common(self, popularity: float, cluster: float, pattern: Single) -> Single:
        common: Single = sqrt(popularity) * self._popularity + sqrt(cluster - popularity) * pattern
        return common

    def _in_cluster(self, popularity: float, cluster: float) -> tuple[Bool, Bool]:
        same = self._common(popularity, cluster, self._cluster)
        own = sqrt(1 - cluster)
        return self._executed(same + own * self._one), self._executed(same + own * self._other)

    def _in_request(self, request: float) -> tuple[Single, float]:
        return self._fixed + sqrt(request - self._share) * self._request, sqrt(1 - request)

    def _executed(self, logits: Single) -> Bool:
        place = logits.shape[1] - self._top_k
        executed: Bool = logits >= np.partition(logits, place, axis=1)[:, place, None]
        return executed

    def _shared(self, one: Bool, other: Bool) -> float:
        return float((one & other).sum(axis=1).mean() / self._top_k)
