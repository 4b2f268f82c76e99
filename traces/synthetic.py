"""Synthetic routing: a small state-space model whose statistics are asked for and come out.

The logits of a layer's experts for one token are a sum of five parts, each a standard normal over the experts:

    z = √s_p · popularity + √(s_c−s_p) · cluster n + √(s_r−s_c) · request + √(s_t−s_r) · token k + √(1−s_t) · rest

with 0 ≤ s_p ≤ s_c ≤ s_r ≤ s_t ≤ 1. The first part is always there, the second as long as the topic (cluster n) stays,
the third during a request, the fourth wherever token k occurs (each belongs to one cluster); the rest moves from
iteration to iteration as an AR(1) process with coefficient ρ. All of this is per layer. Gates are the softmax of β · z,
and the K largest logits are executed (ties: the lower number). So what two iterations have in common depends on what
they share, and each overlap of `Statistics` fixes one part (`synthetic_calibration.py` solves for them). Layers are
independent of each other given cluster, request and token.
"""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import UserError
from policies.types import Float, Int, ModelShape, RecordedRequest

Single = NDArray[np.float32]
PerLayer = tuple[float, ...]
TOKENS_PER_CLUSTER = 64
_LEAST = 2.0**-14  # of a gate that must not be zero: the smallest normal float16

# Streams of random numbers, so that no draw depends on how many others were made.
_PATTERNS, _VECTORS, _ORDER, _REQUEST, _TOKEN = range(5)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What is measured of a trace, a number per layer each; what a synthetic one is asked for.

    Overlaps are shares of the executed experts of a decode iteration that another one executed too, from K/J, by
    chance, to 1.
    """

    entropy_bits: PerLayer  # of single decode iterations: sharpness
    overlap: PerLayer  # with the decode iteration before
    request_overlap: PerLayer  # with one of the same request and topic, far away
    cluster_overlap: PerLayer  # with one of another request of the same cluster
    token_overlap: PerLayer  # with one of another request that has the same token
    load_cv: PerLayer  # coefficient of variation of the experts' load: standard deviation over mean

    def mean(self) -> dict[str, float]:
        """Of each of them the mean over layers."""
        return {name: float(np.mean(values)) for name, values in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Everything that a synthetic trace is drawn from, but the lengths of its requests.

    Requests are dealt to the clusters like cards, so that none has more by luck.
    """

    shape: ModelShape
    statistics: Statistics
    clusters: int
    topic_change: float = 0.0  # probability per decode iteration that the topic moves to another cluster
    drift: float = 0.0  # popularity and clusters of the last request correlate by 1 − drift with the first one's
    token_similarity: float = 0.6  # mean cosine of the embeddings of two different tokens of a cluster
    lookahead: dict[int, float] = field(default_factory=dict)  # distance -> share of executed experts in its top K
    gate_complete: bool = True  # False: gates are known at the executed experts only, and so is their entropy
    prefill: bool = True
    embedding: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        shape, chance = self.shape, self.shape.top_k / self.shape.experts
        known = shape.experts if self.gate_complete else shape.top_k
        ranges = {
            "entropy_bits": (0.0, float(np.log2(known))),
            "load_cv": (0.0, float(np.sqrt(1 / chance - 1))),
            "overlap": (0.0, 1.0),  # neighbours may avoid each other
        }
        for name, values in asdict(self.statistics).items():
            if len(values) != shape.layers:
                _refuse(name, f"{len(values)} values", f"it must be one, or one for each of the {shape.layers} layers")
            low, high = ranges.get(name, (chance, 1.0))
            for value in values:
                _within(name, value, low, high)
        for name in ("topic_change", "drift", "token_similarity"):
            _within(name, getattr(self, name), 0.0, 1.0)
        if not 1 <= self.clusters <= shape.vocab:
            _refuse("clusters", self.clusters, f"it must be from 1 to the {shape.vocab} tokens")
        if self.topic_change and self.clusters == 1:
            _refuse("topic_change", self.topic_change, "there is only one cluster")
        for recall in self.lookahead.values():
            _within("lookahead_recall", recall, chance, 1.0)

    def told(self) -> dict[str, Any]:
        """What `meta.generation` says: all that a trace does not note elsewhere; one number where all layers agree."""
        described = asdict(self) | {"lookahead": {str(at): recall for at, recall in self.lookahead.items()}}
        per_layer = {name: [round(one, 4) for one in values] for name, values in described.pop("statistics").items()}
        short = {name: values[0] if len(set(values)) == 1 else values for name, values in per_layer.items()}
        elsewhere = ("shape", "seed", "gate_complete", "prefill", "embedding")
        return short | {name: value for name, value in described.items() if name not in elsewhere}


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low - 1e-9 <= value <= high + 1e-9:
        _refuse(name, f"{value:g}", f"it must be from {low:.4g} to {high:.4g}")


def _refuse(name: str, value: object, what: str) -> None:
    raise UserError(f"--{name.removesuffix('_bits').replace('_', '-')} {value}: {what}")


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """The numbers of the model that give the statistics, a value per layer `[L]` each."""

    popularity: Float  # s_p
    cluster: Float  # s_c
    request: Float  # s_r
    token: Float  # s_t
    memory: Float  # ρ
    sharpness: Float  # β
    lookahead: dict[int, Float]  # distance -> correlation of the speculated logits with the true ones, of target layers


class Patterns:
    """What experts each layer and each cluster favour: `popularity` `[L, J]` and `clusters` `[N, L, J]`, float32.

    Each has mean 0 and variance 1 over experts. Those of the clusters cancel out, so that they leave the load even.
    """

    def __init__(self, shape: ModelShape, clusters: int, rng: np.random.Generator) -> None:
        normal = NormalDist()
        scores = np.array([normal.inv_cdf((one + 0.5) / shape.experts) for one in range(shape.experts)])
        size = (shape.layers, shape.experts)
        # The same values in random order, so that no layer is uneven by luck.
        self.popularity: Single = _standardised(rng.permuted(np.broadcast_to(scores, size), axis=1))
        drawn = rng.standard_normal((clusters, *size))
        self.clusters: Single = _standardised(drawn - drawn.mean(axis=0)) if clusters > 1 else 0 * _standardised(drawn)

    def turned(self, towards: "Patterns", correlation: float) -> "Patterns":
        """A mixture that correlates so much with these and else is made of the others."""
        mixed = object.__new__(Patterns)
        rest = np.sqrt(max(0.0, 1 - correlation**2))
        mixed.popularity = (correlation * self.popularity + rest * towards.popularity).astype(np.float32)
        mixed.clusters = (correlation * self.clusters + rest * towards.clusters).astype(np.float32)
        return mixed


def _standardised(values: Float) -> Single:
    """`[…, L, J]` with variance 1 in each layer, over experts and all before."""
    axes = tuple(axis for axis in range(values.ndim) if axis != values.ndim - 2)
    found: Single = (values / np.maximum(values.std(axis=axes, keepdims=True), 1e-12)).astype(np.float32)
    return found


class SyntheticModel:
    """Draws requests; request `r` of `requests` depends on parameters, coefficients and `r` alone."""

    def __init__(self, parameters: Parameters, coefficients: Coefficients, requests: int) -> None:
        self.parameters = parameters
        self.coefficients = coefficients
        self.requests = requests

    @cached_property
    def _ends(self) -> tuple[Patterns, Patterns]:
        return first_patterns(self.parameters), _patterns(self.parameters, 1)

    @cached_property
    def vectors(self) -> Float:
        """`[N · tokens, h]` float16 embeddings; the tokens of cluster n are n, n + N, n + 2N, …"""
        parameters = self.parameters
        rng = self._stream(_VECTORS)
        tokens, hidden = self._cluster_tokens, parameters.shape.hidden
        centres = _unit(rng.standard_normal((1, parameters.clusters, hidden)))
        own = _unit(rng.standard_normal((tokens, parameters.clusters, hidden)))
        share = parameters.token_similarity
        mixed = np.sqrt(share) * centres + np.sqrt(1 - share) * own
        vectors: Float = mixed.reshape(tokens * parameters.clusters, hidden).astype(np.float16)
        return vectors

    def _stream(self, *which: int) -> np.random.Generator:
        return np.random.default_rng([self.parameters.seed, *which])

    @property
    def _cluster_tokens(self) -> int:
        return min(TOKENS_PER_CLUSTER, self.parameters.shape.vocab // self.parameters.clusters)

    def cluster_of(self, request: int) -> int:
        """The cluster that a request begins in."""
        block, place = divmod(request, self.parameters.clusters)
        return int(self._stream(_ORDER, block).permutation(self.parameters.clusters)[place])

    def request(self, number: int, prompt_tokens: int | None, output_tokens: int) -> RecordedRequest:
        """All rows of a request; without prefill `prompt_tokens` is not used."""
        parameters, shape = self.parameters, self.parameters.shape
        rng = self._stream(_REQUEST, number)
        prompt = (prompt_tokens or 1) if parameters.prefill else 0
        decode = output_tokens - bool(prompt)
        topic = self._topics(self.cluster_of(number), prompt, decode, rng)
        rows = prompt + decode
        token = topic + parameters.clusters * rng.integers(0, self._cluster_tokens, rows)
        logits = self._logits(number, topic, token, rng)
        experts = top(logits, shape.top_k)
        gate = self._gates(logits, slice(None))
        if not parameters.gate_complete:
            gate = only(gate, experts)
        iteration = np.concatenate([np.zeros(prompt, np.int32), np.arange(1, decode + 1, dtype=np.int32)])
        return RecordedRequest(
            request=number,
            source=f"synthetic cluster {topic[0]}",
            iteration=iteration,
            position=np.arange(rows, dtype=np.int32),
            token=token.astype(np.int32),
            gate=gate.astype(np.float16),
            experts=experts,
            embedding=self.vectors[token] if parameters.embedding else None,
            lookahead={at: self._speculated(logits, at, rng) for at in parameters.lookahead},
        )

    def _topics(self, first: int, prompt: int, decode: int, rng: np.random.Generator) -> Int:
        """`[rows]` clusters: one through the prompt, then with changes to any other."""
        steps = np.zeros(prompt + decode, np.int64)
        begin = max(prompt, 1)  # of the decode iterations that have one before them
        changes = rng.random(len(steps) - begin) < self.parameters.topic_change
        others = rng.integers(1, max(self.parameters.clusters, 2), len(changes))
        steps[begin:] = changes * others
        topics: Int = (first + steps.cumsum()) % self.parameters.clusters
        return topics

    def _logits(self, number: int, topic: Int, token: Int, rng: np.random.Generator) -> Single:
        """`[rows, L, J]`."""
        known, shape = self.coefficients, self.parameters.shape
        size = (shape.layers, shape.experts)
        here = self._patterns_at(number)
        own = rng.standard_normal(size, np.float32)
        fixed = _column(np.sqrt(known.popularity)) * here.popularity
        fixed = fixed + _column(np.sqrt(known.request - known.cluster)) * own
        clusters = fixed + _column(np.sqrt(known.cluster - known.popularity)) * here.clusters
        noise = rng.standard_normal((len(topic), *size), np.float32)
        memory, news = _column(known.memory), _column(np.sqrt(1 - known.memory**2))
        noise[1:] *= news
        for row in range(1, len(noise)):
            noise[row] += memory * noise[row - 1]
        noise *= _column(np.sqrt(1 - known.token))
        noise += clusters[topic]
        used, which = np.unique(token, return_inverse=True)
        # Drawn again where they are needed: of a large vocabulary they would fill the memory.
        patterns = np.stack([self._stream(_TOKEN, one).standard_normal(size, np.float32) for one in used.tolist()])
        noise += (_column(np.sqrt(known.token - known.request)) * patterns)[which]
        return noise

    def _patterns_at(self, number: int) -> Patterns:
        first, last = self._ends
        if not self.parameters.drift or not number:
            return first
        angle = np.arccos(1 - self.parameters.drift) * number / (self.requests - 1)
        return first.turned(last, float(np.cos(angle)))

    def _gates(self, logits: Float, targets: slice) -> Single:
        return softmax(logits, _column(self.coefficients.sharpness)[targets])

    def _speculated(self, logits: Single, distance: int, rng: np.random.Generator) -> Float:
        """`[rows, L, J]` what the router `distance` layers ahead seems to say: its logits, blurred."""
        kept = _column(self.coefficients.lookahead[distance])
        target = logits[:, distance:]
        blurred = kept * target + np.sqrt(1 - kept**2) * rng.standard_normal(target.shape, np.float32)
        gate = np.zeros(logits.shape, np.float16)
        gate[:, :-distance] = self._gates(blurred, slice(distance, None))
        return gate


def first_patterns(parameters: Parameters) -> Patterns:
    """Those of the first request; without drift, of all."""
    return _patterns(parameters, 0)


def _patterns(parameters: Parameters, which: int) -> Patterns:
    return Patterns(parameters.shape, parameters.clusters, np.random.default_rng([parameters.seed, _PATTERNS, which]))


def top(logits: Single, count: int) -> Int:
    """`[…, count]` int16: the experts with the largest logits, largest first; the lower number first among equals."""
    found: Int = np.argsort(-logits, axis=-1, kind="stable")[..., :count].astype(np.int16)
    return found


def softmax(logits: Float, sharpness: Float | float) -> Single:
    """Of `sharpness · logits` along the last axis."""
    powers: Single = np.exp(sharpness * (logits - logits.max(axis=-1, keepdims=True)))
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers


def only(gate: Single, experts: Int) -> Single:
    """Zero but at the executed experts `[…, K]`, whose shares are made to sum to 1."""
    places = experts.astype(np.int64)
    kept = np.maximum(np.take_along_axis(gate, places, axis=-1), _LEAST)
    sparse = np.zeros_like(gate)
    np.put_along_axis(sparse, places, kept / kept.sum(axis=-1, keepdims=True), axis=-1)
    return sparse


def _column(values: Float) -> Single:
    return np.asarray(values, np.float32)[:, None]


def _unit(vectors: Float) -> Float:
    unit: Float = vectors / np.sqrt(np.vecdot(vectors, vectors))[..., None]
    return unit
