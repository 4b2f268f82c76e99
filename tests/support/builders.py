"""Small models, requests and machines made by hand."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from policies.base import Evictor, Policy, Prefetcher
from policies.cache.setup_without_cache import setup_without_cache
from policies.types import ModelShape, Prefetch, RecordedRequest, Setup
from sim.hardware.data_sheet import DataSheetMachine
from sim.hardware.effects import Effects
from sim.hardware.parts import Gpu, Link, SearchRates

US = 1e-6


def shape(layers: int = 2, experts: int = 4, top_k: int = 2, **sizes) -> ModelShape:
    """A model whose experts have 24 bytes, unless `sizes` say otherwise."""
    defaults = {"hidden": 2, "expert_ffn": 2, "attention_heads": 1, "kv_heads": 1, "head_dim": 2, "vocab": 10}
    return ModelShape(name="hand-made", layers=layers, experts=experts, top_k=top_k, **{**defaults, **sizes})


def request_of(
    demands: Sequence[Sequence[Sequence[int]]],
    model: ModelShape,
    *,
    number: int = 0,
    prefill_tokens: int = 0,
    rng: np.random.Generator | None = None,
    hidden: int | None = None,
) -> RecordedRequest:
    """A request from the experts of each token and layer, `[tokens][L][K]`.

    The first `prefill_tokens` tokens are its prefill. Gates give most to the first executed expert; an `rng` blurs
    them.
    """
    experts = np.array(demands, np.int16)
    tokens = len(experts)
    gate = np.full((tokens, model.layers, model.experts), 0.01)
    np.put_along_axis(gate, experts.astype(np.int64), 1 / (1 + np.arange(experts.shape[2])), axis=2)
    if rng is not None:
        gate = gate * rng.uniform(0.8, 1.2, gate.shape)
    gate /= gate.sum(axis=2, keepdims=True)
    decoded = tokens - prefill_tokens
    iteration = np.concatenate([np.zeros(prefill_tokens), np.arange(1, decoded + 1)]).astype(np.int32)
    return RecordedRequest(
        request=number,
        source="hand-made",
        iteration=iteration,
        position=np.arange(tokens, dtype=np.int32),
        token=np.arange(tokens, dtype=np.int32),
        gate=gate.astype(np.float16),
        experts=experts,
        embedding=None if hidden is None or rng is None else rng.normal(size=(tokens, hidden)).astype(np.float16),
    )


def random_requests(
    model: ModelShape,
    rng: np.random.Generator,
    *,
    requests: int = 3,
    decoded: int = 6,
    prefill_tokens: int = 0,
    hidden: int | None = None,
) -> list[RecordedRequest]:
    """Requests whose experts are drawn at random, with some repetition from token to token."""
    answer = []
    for number in range(requests):
        tokens: list[list[list[int]]] = []
        for _ in range(prefill_tokens + decoded):
            fresh = [rng.permutation(model.experts)[: model.top_k].tolist() for _ in range(model.layers)]
            if tokens and rng.random() < 0.4:
                fresh[0] = tokens[-1][0]
            tokens.append(fresh)
        answer.append(request_of(tokens, model, number=number, prefill_tokens=prefill_tokens, rng=rng, hidden=hidden))
    return answer


def with_lookahead(recorded: RecordedRequest, *distances: int) -> RecordedRequest:
    """The same request with lookahead gates that say exactly what the later layer's gate will say."""
    ahead = {}
    for distance in distances:
        ahead[distance] = np.zeros_like(recorded.gate)
        ahead[distance][:, :-distance] = recorded.gate[:, distance:]
    return replace(recorded, lookahead=ahead)


def setup_of(model: ModelShape, history=None, future=None, rng: np.random.Generator | None = None) -> Setup:
    """What a policy is told where nothing runs: one GPU with room for all, and nothing there."""
    return setup_without_cache(model, rng or np.random.default_rng(0), history=history, future=future)


class KnownFuture:
    """The future of requests held in memory."""

    def __init__(self, model: ModelShape, requests: Sequence[RecordedRequest]) -> None:
        self._model = model
        self._recorded = {recorded.request: recorded for recorded in requests}
        self.requests = list(self._recorded)

    def demands(self, request: int) -> np.ndarray:
        recorded = self._recorded[request]
        step = np.unique(recorded.iteration, return_inverse=True)[1]
        used = np.zeros((step.max() + 1, self._model.layers, self._model.experts), bool)
        for token, layers in enumerate(recorded.experts):
            for layer, experts in enumerate(layers):
                used[step[token], layer, experts[experts >= 0]] = True
        return used


class HandCost:
    """Round times, so that a timeline can be worked out on paper."""

    launch_s = driving_s = 0.0
    effects = Effects()

    def __init__(self, *, dense_s=5 * US, expert_s=4 * US, chunk_s=10 * US, search_s=1 * US, exchange_s=0.0) -> None:
        self._times = dense_s, expert_s, chunk_s, search_s, exchange_s

    def dense_s(self, tokens, context, attended):
        return self._times[0]

    def expert_s(self, tokens):
        return self._times[1]

    def copy_s(self, size_bytes):
        return self._times[2]

    def copy_latency_s(self, size_bytes):
        return 0.0

    def search_s(self, search):
        return self._times[3]

    def exchange_s(self, tokens):
        return self._times[4]

    def head_s(self, rows):
        return 0.0


class Script(Prefetcher):
    """Issues plans written down beforehand: {(iteration, layer): plans}, layer -1 standing for `on_batch`."""

    def __init__(self, plans: dict[tuple[int, int], list[Prefetch]]) -> None:
        self._plans = plans

    def on_batch(self, batch):
        return self._plans.get((batch.iteration, -1), [])

    def on_gate(self, batch, gate):
        return self._plans.get((batch.iteration, gate.layer), [])


def scripted(plans: dict[tuple[int, int], list[Prefetch]], evictor: Evictor, **choices) -> Policy:
    return Policy(prefetcher=Script(plans), evictor=evictor, **choices)


def machine(
    gpus: int = 1, *, bytes_per_s: float = 1e9, latency_s: float = 0.0, free_search: bool = False
) -> DataSheetMachine:
    """A slow machine, on which the costs of small models differ."""
    return DataSheetMachine(
        name="hand-made",
        gpus=gpus,
        gpu=Gpu(name="slow", flops_per_s=1e9, memory_bytes_per_s=1e8, memory_bytes=1e6, overhead_s=1e-6),
        host_link=Link(bytes_per_s=bytes_per_s, latency_s=latency_s),
        peer_link=Link(bytes_per_s=1e8, latency_s=1e-6),
        search=SearchRates(
            overhead_s=0.0 if free_search else 1e-6,
            bytes_per_s=float("inf") if free_search else 1e9,
            flops_per_s=float("inf") if free_search else 1e9,
        ),
    )
