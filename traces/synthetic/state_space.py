"""Synthetic routing from a small state-space model that reaches the requested statistics.

The logits of a layer's experts for row t of a request are a sum of four parts, each a standard normal over the experts:

    z_t = √s_p · popularity + √(s_c−s_p) · cluster n + √(s_r−s_c) · request + √(1−s_r) · m_t
    m_t = ρ · m_{t−1} + √(1−ρ²) · (√τ · token k + √(1−τ) · noise)

with 0 ≤ s_p ≤ s_c ≤ s_r ≤ 1 and 0 ≤ τ ≤ 1. The first part is constant, the second lasts as long as the topic
(cluster n), the third as long as the request. The fourth, m, changes: a share ρ is memory of the previous row, and τ of
the rest comes from token k wherever it occurs. All coefficients are per layer. Gates are the softmax of β · z, and the
experts with the K largest logits are executed (ties: the lower number). So the overlap of two iterations depends on the
parts they share, and each overlap in `Statistics` determines one coefficient (`coefficients.py` solves for them).

Tokens come in phrases, always in the same order, so the same token always follows the same tokens. Each phrase belongs
to one cluster. Given cluster, request and tokens, layers are independent of each other: one layer predicts those ahead
only through the token. The expert map of another occurrence of the token predicts them, and its probability depends on
the number of phrases. As in natural text, few phrases are frequent and many are rare: P(phrase i) ∝ 1 / (⌊i/2⌋ + 5).
The two phrases of equal frequency favour opposite experts, so that they do not skew the load.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from statistics import NormalDist

import numpy as np

from policies.types import Float, Int, ModelShape, RecordedRequest
from traces.analysis.iterations import top
from traces.analysis.similarity import Single
from traces.synthetic.parameters import PHRASE, Parameters

_FLAT = 5  # flattens the frequencies: those of the ten most frequent phrases differ by less than a factor of two
_LEAST = 2.0**-14  # minimum gate of an executed expert: the smallest normal float16
_KEPT_BYTES = 2**26  # of token patterns, and of embeddings

# Separate streams of random numbers, so that draws do not affect each other.
_PATTERNS, _VECTORS, _ORDER, _REQUEST, _TOKEN = range(5)


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """The coefficients of the model, each `[L]` except the number of phrases."""

    popularity: Float  # s_p
    cluster: Float  # s_c
    request: Float  # s_r
    memory: Float  # ρ
    token: Float  # τ
    sharpness: Float  # β
    lookahead: dict[int, Float]  # distance -> correlation of predicted and true logits, for target layers
    phrases: int  # per cluster


class Patterns:
    """Preferences for experts: `popularity` of each layer `[L, J]`, `clusters` of each cluster `[N, L, J]`, float32.

    Each has mean 0 and variance 1 over experts. Those of the clusters sum to 0, so that they do not skew the load.
    """

    def __init__(self, shape: ModelShape, clusters: int, rng: np.random.Generator) -> None:
        normal = NormalDist()
        scores = np.array([normal.inv_cdf((one + 0.5) / shape.experts) for one in range(shape.experts)])
        size = (shape.layers, shape.experts)
        # The same values in random order, so that all layers are equally uneven.
        self.popularity: Single = _standardised(rng.permuted(np.broadcast_to(scores, size), axis=1))
        drawn = rng.standard_normal((clusters, *size))
        self.clusters: Single = _standardised(drawn - drawn.mean(axis=0)) if clusters > 1 else 0 * _standardised(drawn)

    def turned(self, towards: "Patterns", correlation: float) -> "Patterns":
        """A mixture with `towards` that has the given `correlation` with these patterns."""
        mixed = object.__new__(Patterns)
        rest = np.sqrt(max(0.0, 1 - correlation**2))
        mixed.popularity = (correlation * self.popularity + rest * towards.popularity).astype(np.float32)
        mixed.clusters = (correlation * self.clusters + rest * towards.clusters).astype(np.float32)
        return mixed


def _standardised(values: Float) -> Single:
    """`values` `[…, L, J]` scaled to variance 1 in each layer, over experts and leading axes."""
    axes = tuple(axis for axis in range(values.ndim) if axis != values.ndim - 2)
    found: Single = (values / np.maximum(values.std(axis=axes, keepdims=True), 1e-12)).astype(np.float32)
    return found


def token_patterns(parameters: Parameters) -> Callable[[int], Single]:
    """Patterns `[L, J]` by token; models with the same shape, clusters and seed can share them."""
    shape, phrase = parameters.shape, parameters.clusters * PHRASE
    drawn = _draws(parameters.seed, _TOKEN, shape=(shape.layers, shape.experts), dtype=np.float32)

    def pattern(token: int) -> Single:
        opposite = token // phrase % 2
        return -drawn(token - phrase) if opposite else drawn(token)

    return pattern


def _draws(*stream: int, shape: tuple[int, ...], dtype: type[np.floating]) -> Callable[[int], Float]:
    """Standard normal draws of `shape` by token, each from its own stream.

    The latest are kept; those of a large vocabulary would fill the memory.
    """

    @lru_cache(max(1, _KEPT_BYTES // (prod(shape) * np.dtype(dtype).itemsize)))
    def drawn(token: int) -> Float:
        found: Float = np.random.default_rng([*stream, token]).standard_normal(shape, dtype)
        return found

    return drawn


class SyntheticModel:
    """Generates requests; request `r` depends only on parameters, coefficients, `r` and the number of `requests`.

    `pattern` are the `token_patterns` of the parameters, if another model has them already.
    """

    def __init__(
        self,
        parameters: Parameters,
        coefficients: Coefficients,
        requests: int,
        pattern: Callable[[int], Single] | None = None,
    ) -> None:
        self.parameters = parameters
        self.coefficients = coefficients
        self.requests = requests
        self._pattern = pattern or token_patterns(parameters)
        self._own_vector = _draws(parameters.seed, _VECTORS, shape=(parameters.shape.hidden,), dtype=np.float64)

    @cached_property
    def _ends(self) -> tuple[Patterns, Patterns]:
        return first_patterns(self.parameters), _patterns(self.parameters, 1)

    @cached_property
    def _frequencies(self) -> Float:
        """Probabilities of a cluster's phrases."""
        weights = 1 / (np.arange(self.coefficients.phrases) // 2 + _FLAT)
        frequencies: Float = weights / weights.sum()
        return frequencies

    @cached_property
    def _centres(self) -> Float:
        """Centres of the clusters' embeddings, `[N, h]`."""
        size = (self.parameters.clusters, self.parameters.shape.hidden)
        return _unit(self._stream(_VECTORS).standard_normal(size))

    def vectors(self, tokens: Int) -> Float:
        """Embeddings `[n, h]` float16 of tokens `[n]`; the tokens of cluster c are c, c + N, c + 2N, …"""
        share = self.parameters.token_similarity
        used, which = np.unique(tokens, return_inverse=True)
        own = _unit(np.stack([self._own_vector(one) for one in used.tolist()]))
        mixed = np.sqrt(share) * self._centres[used % self.parameters.clusters] + np.sqrt(1 - share) * own
        vectors: Float = mixed.astype(np.float16)[which]
        return vectors

    def _stream(self, *which: int) -> np.random.Generator:
        return np.random.default_rng([self.parameters.seed, *which])

    def cluster_of(self, request: int) -> int:
        """The cluster in which a request starts."""
        block, place = divmod(request, self.parameters.clusters)
        return int(self._stream(_ORDER, block).permutation(self.parameters.clusters)[place])

    def request(self, number: int, prompt_tokens: int | None, output_tokens: int) -> RecordedRequest:
        """Generate all rows of a request; without prefill, `prompt_tokens` has no effect."""
        parameters, shape = self.parameters, self.parameters.shape
        rng = self._stream(_REQUEST, number)
        prompt = (prompt_tokens or 1) if parameters.prefill else 0
        decode = output_tokens - bool(prompt)
        topic = self._topics(self.cluster_of(number), prompt, decode, rng)
        rows = prompt + decode
        token = topic + parameters.clusters * self._places(rows, rng)
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
            embedding=self.vectors(token) if parameters.embedding else None,
            lookahead={at: self._predicted(logits, at, rng) for at in parameters.lookahead},
        )

    def _topics(self, first: int, prompt: int, decode: int, rng: np.random.Generator) -> Int:
        """Cluster of each row `[rows]`: constant through the prompt, then with random changes."""
        steps = np.zeros(prompt + decode, np.int64)
        begin = max(prompt, 1)  # first decode iteration that has a predecessor
        changes = rng.random(len(steps) - begin) < self.parameters.topic_change
        others = rng.integers(1, max(self.parameters.clusters, 2), len(changes))
        steps[begin:] = changes * others
        topics: Int = (first + steps.cumsum()) % self.parameters.clusters
        return topics

    def _places(self, rows: int, rng: np.random.Generator) -> Int:
        """Tokens `[rows]`, numbered within their clusters: random phrases, the first from a random position."""
        place = rng.integers(PHRASE) + np.arange(rows)
        phrases = rng.choice(self.coefficients.phrases, place[-1] // PHRASE + 1, p=self._frequencies)
        places: Int = PHRASE * phrases[place // PHRASE] + place % PHRASE
        return places

    def _logits(self, number: int, topic: Int, token: Int, rng: np.random.Generator) -> Single:
        """Logits `[rows, L, J]`."""
        known, shape = self.coefficients, self.parameters.shape
        size = (shape.layers, shape.experts)
        here = self._patterns_at(number)
        own = rng.standard_normal(size, np.float32)
        fixed = _column(np.sqrt(known.popularity)) * here.popularity
        fixed = fixed + _column(np.sqrt(known.request - known.cluster)) * own
        clusters = fixed + _column(np.sqrt(known.cluster - known.popularity)) * here.clusters
        moving = rng.standard_normal((len(topic), *size), np.float32)
        moving *= _column(np.sqrt(1 - known.token))
        used, which = np.unique(token, return_inverse=True)
        patterns = np.stack([self._pattern(one) for one in used.tolist()])
        moving += (_column(np.sqrt(known.token)) * patterns)[which]
        memory = _column(known.memory)
        moving[1:] *= np.sqrt(1 - memory**2)
        for row in range(1, len(moving)):
            moving[row] += memory * moving[row - 1]
        moving *= _column(np.sqrt(1 - known.request))
        moving += clusters[topic]
        return moving

    def _patterns_at(self, number: int) -> Patterns:
        first, last = self._ends
        if not self.parameters.drift or not number:
            return first
        angle = np.arccos(1 - self.parameters.drift) * number / (self.requests - 1)
        return first.turned(last, float(np.cos(angle)))

    def _gates(self, logits: Float, targets: slice) -> Single:
        return softmax(logits, _column(self.coefficients.sharpness)[targets])

    def _predicted(self, logits: Single, distance: int, rng: np.random.Generator) -> Float:
        """Lookahead gates `[rows, L, J]`: the logits `distance` layers ahead, with noise."""
        kept = _column(self.coefficients.lookahead[distance])
        target = logits[:, distance:]
        blurred = kept * target + np.sqrt(1 - kept**2) * rng.standard_normal(target.shape, np.float32)
        gate = np.zeros(logits.shape, np.float16)
        gate[:, :-distance] = self._gates(blurred, slice(distance, None))
        return gate


def first_patterns(parameters: Parameters) -> Patterns:
    """Patterns of the first request; without drift, of all requests."""
    return _patterns(parameters, 0)


def _patterns(parameters: Parameters, which: int) -> Patterns:
    return Patterns(parameters.shape, parameters.clusters, np.random.default_rng([parameters.seed, _PATTERNS, which]))


def softmax(logits: Float, sharpness: Float | float) -> Single:
    """Softmax of `sharpness · logits` along the last axis."""
    powers: Single = np.exp(sharpness * (logits - logits.max(axis=-1, keepdims=True)))
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers


def only(gate: Single, experts: Int) -> Single:
    """The gate restricted to the executed experts `[…, K]`, scaled to sum 1."""
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
