"""Synthetic routing: a small state-space model whose statistics are asked for and come out.

The logits of a layer's experts for row t of a request are a sum of four parts, each a standard normal over the experts:

    z_t = √s_p · popularity + √(s_c−s_p) · cluster n + √(s_r−s_c) · request + √(1−s_r) · m_t
    m_t = ρ · m_{t−1} + √(1−ρ²) · (√τ · token k + √(1−τ) · noise)

with 0 ≤ s_p ≤ s_c ≤ s_r ≤ 1 and 0 ≤ τ ≤ 1. The first part is always there, the second as long as the topic (cluster n)
stays, the third during a request. The last moves: it remembers ρ of what was before, and the rest is news, of which τ
comes with token k wherever that occurs. All of this is per layer. Gates are the softmax of β · z, and the K largest
logits are executed (ties: the lower number). So what two iterations have in common depends on what they share, and each
overlap of `Statistics` fixes one part (`coefficients.py` solves for them).

Tokens come in phrases, always in the same order, so that the same token was preceded by the same ones; each phrase
belongs to one cluster. Layers are independent of each other given cluster, request and tokens: what one of them tells
of those ahead is the token. The expert map of another occurrence predicts them, if there is one, and how probable that
is depends on how many phrases there are. As in texts few are frequent and many rare: P(phrase i) ∝ 1 / (⌊i/2⌋ + 5);
the two that are equally frequent favour opposite experts, so that they leave the load even.
"""

from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from policies.types import Float, Int, ModelShape, RecordedRequest
from traces.analysis.iterations import top
from traces.analysis.similarity import Single
from traces.synthetic.parameters import PHRASE, Parameters

_FLAT = 5  # of the phrases' frequencies: the ten most frequent differ by less than a factor of two
_LEAST = 2.0**-14  # of a gate that must not be zero: the smallest normal float16

# Streams of random numbers, so that no draw depends on how many others were made.
_PATTERNS, _VECTORS, _ORDER, _REQUEST, _TOKEN = range(5)


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """The numbers of the model that give the statistics, a value per layer `[L]` each but one."""

    popularity: Float  # s_p
    cluster: Float  # s_c
    request: Float  # s_r
    memory: Float  # ρ
    token: Float  # τ
    sharpness: Float  # β
    lookahead: dict[int, Float]  # distance -> correlation of the speculated logits with the true ones, of target layers
    phrases: int  # of each cluster


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
    def _frequencies(self) -> Float:
        """Of a cluster's phrases."""
        weights = 1 / (np.arange(self.coefficients.phrases) // 2 + _FLAT)
        frequencies: Float = weights / weights.sum()
        return frequencies

    @cached_property
    def _centres(self) -> Float:
        """`[N, h]`"""
        size = (self.parameters.clusters, self.parameters.shape.hidden)
        return _unit(self._stream(_VECTORS).standard_normal(size))

    def vectors(self, tokens: Int) -> Float:
        """`[n, h]` float16 embeddings of tokens `[n]`; those of cluster n are n, n + N, n + 2N, …"""
        hidden, share = self.parameters.shape.hidden, self.parameters.token_similarity
        used, which = np.unique(tokens, return_inverse=True)
        own = _unit(np.stack([self._stream(_VECTORS, one).standard_normal(hidden) for one in used.tolist()]))
        mixed = np.sqrt(share) * self._centres[used % self.parameters.clusters] + np.sqrt(1 - share) * own
        vectors: Float = mixed.astype(np.float16)[which]
        return vectors

    def _stream(self, *which: int) -> np.random.Generator:
        return np.random.default_rng([self.parameters.seed, *which])

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

    def _places(self, rows: int, rng: np.random.Generator) -> Int:
        """`[rows]` tokens, counted within their clusters: phrases, the first from any of its tokens on."""
        place = rng.integers(PHRASE) + np.arange(rows)
        phrases = rng.choice(self.coefficients.phrases, place[-1] // PHRASE + 1, p=self._frequencies)
        places: Int = PHRASE * phrases[place // PHRASE] + place % PHRASE
        return places

    def _logits(self, number: int, topic: Int, token: Int, rng: np.random.Generator) -> Single:
        """`[rows, L, J]`."""
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

    def _pattern(self, token: int) -> Single:
        """`[L, J]`; drawn again where it is needed, since those of a large vocabulary would fill the memory."""
        shape, phrase = self.parameters.shape, self.parameters.clusters * PHRASE
        opposite = token // phrase % 2
        drawn = self._stream(_TOKEN, token - opposite * phrase).standard_normal(
            (shape.layers, shape.experts), np.float32
        )
        pattern: Single = -drawn if opposite else drawn
        return pattern

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
