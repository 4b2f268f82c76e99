"""Solve for the coefficients of the synthetic model that give the requested statistics.

Each layer is solved separately on a sample of pairs of tokens, from the parts that all tokens share to those that few
share: a larger part raises its own statistic and leaves the statistics solved before unchanged. The number of phrases
is solved last, on requests drawn with the coefficients of all layers: with fewer phrases, the stored maps contain more
often another occurrence of the same phrase, and a search by trajectory finds more.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from math import log2, sqrt
from typing import Any

import numpy as np

from policies.types import Bool
from traces.analysis.entropy import entropy_bits
from traces.analysis.iterations import iterations_of, top
from traces.analysis.similarity import Single
from traces.synthetic.parameters import PHRASE, Parameters, Statistics
from traces.synthetic.state_space import (
    Coefficients,
    Patterns,
    SyntheticModel,
    first_patterns,
    only,
    softmax,
    token_patterns,
)
from traces.synthetic.trajectory_search import DISTANCE, LONGEST, SEARCHED, TrajectorySearch

PAIRS = 2048  # pairs of tokens in the sample; a mean share has a standard error of at most 0.011
_NEAR = 1e-3  # tolerance of a solution
_STEPS = 20  # maximum steps of a solution
_ROUNDS = 3  # rounds over popularity and clusters, which affect each other a little
PHRASES = 32  # per cluster, if no recall is requested
FEWEST = 2  # phrases per cluster: each needs an opposite one
_STORED = 100  # requests drawn for the store
_ITERATIONS = 11  # of each stored request; the first, which has no memory, is skipped
_RECALL_NEAR = 0.005  # tolerance of a recall; its standard error is larger
_STREAM = 9


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The coefficients, and the statistics they reach on the sample, which may differ from impossible requests."""

    coefficients: Coefficients
    expected: Statistics
    trajectory_recall: float | None  # of the nearest expert map; None with too few layers
    lookahead: dict[int, float]  # distance -> share of executed experts in its top K, mean over target layers


def calibrate(
    parameters: Parameters,
    iterations: int = 128,
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda layers: layers,
) -> Calibration:
    """Solve every layer, then the number of phrases; `progress` wraps the iteration over layers.

    `iterations` is the length of a typical request: the longer it is, the more a search finds in the request itself.
    """
    patterns = first_patterns(parameters)
    solved = [_solve(parameters, patterns, layer) for layer in progress(range(parameters.shape.layers))]
    names = [one.name for one in fields(Coefficients) if one.name not in ("lookahead", "phrases")]
    known = {name: np.array([one[name] for one, _ in solved]) for name in names}
    lookahead, recall = {}, {}
    for distance in parameters.lookahead:
        ahead = [one["lookahead"][distance] for one, _ in solved[distance:]]
        lookahead[distance] = np.array([kept for kept, _ in ahead])
        recall[distance] = float(np.mean([found for _, found in ahead]))
    expected = Statistics(**{one.name: tuple(found[one.name] for _, found in solved) for one in fields(Statistics)})
    coefficients, found = _with_phrases(
        parameters, iterations, Coefficients(**known, lookahead=lookahead, phrases=PHRASES)
    )
    return Calibration(coefficients=coefficients, expected=expected, trajectory_recall=found, lookahead=recall)


def _with_phrases(parameters: Parameters, iterations: int, known: Coefficients) -> tuple[Coefficients, float | None]:
    """The coefficients with the number of phrases that gives the requested recall, and the recall reached."""
    most = parameters.shape.vocab // (PHRASE * parameters.clusters)
    if parameters.shape.layers <= DISTANCE:
        return replace(known, phrases=min(most, PHRASES)), None

    pattern = token_patterns(parameters)

    @cache  # the search tries some numbers more than once
    def having(phrases: int) -> tuple[Coefficients, float]:
        chosen = replace(known, phrases=phrases)
        return chosen, _recall(parameters, iterations, chosen, pattern)

    def at(power: float) -> tuple[Coefficients, float]:
        return having(min(most, round(2**power)))

    power = log2(PHRASES)
    if parameters.trajectory_recall is not None and most > FEWEST:
        lost = -parameters.trajectory_recall
        power = solve(lambda each: -at(each)[1], lost, log2(FEWEST), log2(most), _RECALL_NEAR)
    return at(power)


def _recall(parameters: Parameters, iterations: int, known: Coefficients, pattern: Callable[[int], Single]) -> float:
    """Recall of requests drawn with these coefficients; random numbers do not depend on the coefficients."""
    plain = replace(parameters, prefill=False, embedding=False, lookahead={}, drift=0.0)
    lengths = [_ITERATIONS] * _STORED + [max(2, min(iterations, LONGEST))] * SEARCHED
    model = SyntheticModel(plain, known, len(lengths), pattern)
    stored, searched = dict(enumerate(lengths[:_STORED])), range(_STORED, len(lengths))
    rng = np.random.default_rng([parameters.seed, _STREAM])
    search = TrajectorySearch(parameters.shape, stored, searched, rng, skip=1)
    for number, length in enumerate(lengths):
        search.add(iterations_of(model.request(number, None, length), prefill=False))
    found = search.recall()
    assert found is not None
    return found


def _solve(parameters: Parameters, patterns: Patterns, layer: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Coefficients and expected statistics of a layer."""
    asked = parameters.statistics
    sample = _Sample(parameters, patterns, layer)
    popularity = cluster = 0.0
    for _ in range(_ROUNDS):
        # Solve popularity for the current cluster share, then the cluster share, which is at least popularity.
        popularity = solve(partial(sample.load_cv, cluster), asked.load_cv[layer], 0, 1)
        cluster = popularity
        if parameters.clusters > 1:
            cluster = solve(partial(sample.cluster_overlap, popularity), asked.cluster_overlap[layer], popularity, 1)
    sample.fix(popularity, cluster)
    request = solve(sample.request_overlap, asked.request_overlap[layer], cluster, 1)
    memory = solve(partial(sample.overlap, request), asked.overlap[layer], -1, 1)
    token = 0.0
    if abs(memory) < 1:
        token = solve(partial(sample.token_overlap, request, memory), asked.token_overlap[layer], 0, 1)
    exponent = solve(lambda power: -sample.entropy(request, 10**power), -asked.entropy_bits[layer], -3, 4)
    sharpness = 10**exponent
    found = {
        "entropy_bits": sample.entropy(request, sharpness),
        "overlap": sample.overlap(request, memory),
        "request_overlap": sample.request_overlap(request),
        "cluster_overlap": sample.cluster_overlap(popularity, cluster),
        "token_overlap": sample.token_overlap(request, memory, token),
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
        "memory": memory,
        "token": token,
        "sharpness": sharpness,
        "lookahead": ahead,
    }
    return known, found


def solve(function: Callable[[float], float], target: float, low: float, high: float, near: float = _NEAR) -> float:
    """Where an increasing function has about the value `target`; the nearer end of the interval if nowhere.

    Uses false position (Illinois): as safe as bisection, in half the steps.
    """
    below, above = function(low) - target, function(high) - target
    if above <= 0:
        return high
    if below >= 0:
        return low
    for _ in range(_STEPS):
        middle = (low * above - high * below) / (above - below)
        found = function(middle) - target
        if abs(found) < near:
            break
        if found < 0:
            low, below, above = middle, found, above / 2
        else:
            high, above, below = middle, found, below / 2
    return middle


class _Sample:
    """Pairs of tokens in one layer; the random numbers do not depend on the coefficients."""

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
        """Fix the part that tokens of one cluster share, for all methods below."""
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

    def token_overlap(self, request: float, memory: float, token: float) -> float:
        """Overlap of iterations of two requests in one cluster, with the same token."""
        # Memory comes from the same tokens too, back to the start of the phrase.
        remembered = 1 - memory ** (2 * (1 + np.arange(PAIRS) % PHRASE))
        own = sqrt(1 - self._share)
        alike = (token * (1 - request) * remembered / max(1 - self._share, 1e-12)).astype(np.float32)[:, None]
        again = alike * self._one + np.sqrt(1 - alike**2) * self._other
        return self._shared(self._executed(self._fixed + own * self._one), self._executed(self._fixed + own * again))

    def overlap(self, request: float, alike: float) -> float:
        """Overlap of an iteration and the next; their parts beyond the request's correlate by `alike`."""
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
