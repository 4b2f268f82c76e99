"""The traces that anchors replay: routing with the sizes of a quantised model, and demands with a given hit rate."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from policies.types import Int, ModelShape, RecordedRequest
from traces.format.reader import Trace
from traces.format.schema import RequestInfo, TraceMeta
from traces.format.writer import TraceWriter

PROMPT = 8  # tokens before the first recorded one


def quantised(shape: ModelShape, bits: float, *, unpacked: bool) -> ModelShape:
    """The shape with experts of `bits` bits per weight when copied.

    If `unpacked`, computing still reads all weights at their original size; otherwise at `bits` bits.
    """
    if bits == 8 * shape.weight_bytes:
        return shape
    if not unpacked:
        return replace(shape, weight_bytes=bits / 8)
    size = round(3 * shape.hidden * shape.expert_ffn * bits / 8)
    return replace(shape, expert_bytes_by_layer=(size,) * shape.layers)


def resized(routing: Trace, shape: ModelShape, path: Path) -> Path:
    """Write the routing of a trace with another model's sizes, without embeddings, whose size would not match."""
    meta = replace(
        routing.meta,
        shape=shape,
        embedding=False,
        files={},
        notes=f"the routing of {routing.meta.model}, trace {routing.digest}, with the sizes of {shape.name}",
    )
    infos = list(routing.infos.values())
    plain = routing.without_embeddings()
    recorded = [
        replace(one, token=one.token % shape.vocab, embedding=None)
        for one in plain.iter([each.request for each in infos])
    ]
    with TraceWriter(path, meta, plan={}) as writer:
        writer.write_part(0, infos, recorded)
        return writer.finish()


def with_hit_rate(shape: ModelShape, hit_rate: float, tokens: int, path: Path) -> Path:
    """Write decode steps of one request whose demands hit an LRU cache at this rate, to the nearest demand.

    The cache is divided by layer, starts empty, and holds at least the experts of one token per layer. In each layer, a
    token's hits are experts of the previous token, and its misses are the least recently used experts. The first token
    misses everything; other misses are spread evenly.
    """
    misses = spread_misses(shape, hit_rate, tokens)
    experts = np.stack([_demands(shape, misses[:, layer]) for layer in range(shape.layers)], axis=1)
    gate = np.zeros((tokens, shape.layers, shape.experts), np.float16)
    np.put_along_axis(gate, experts.astype(np.int64), np.float16(1 / shape.top_k), axis=2)
    recorded = RecordedRequest(
        request=0,
        source="made",
        iteration=np.arange(1, tokens + 1, dtype=np.int32),
        position=np.arange(PROMPT, PROMPT + tokens, dtype=np.int32),
        token=np.zeros(tokens, np.int32),
        gate=gate,
        experts=experts,
    )
    meta = TraceMeta(
        kind="synthetic",
        model=shape.name,
        shape=shape,
        gate_complete=False,
        prefill=False,
        notes=f"demands with a hit rate of {hit_rate:g} under LRU by layer, without any routing behind them",
    )
    with TraceWriter(path, meta, plan={}) as writer:
        writer.write_part(0, [RequestInfo(request=0, source="made", output_tokens=tokens)], [recorded])
        return writer.finish()


def spread_misses(shape: ModelShape, hit_rate: float, tokens: int) -> Int:
    """`[tokens, L]`: how many of a token's K experts miss in each layer."""
    total = round((1 - hit_rate) * tokens * shape.layers * shape.top_k)
    layer = np.arange(shape.layers + 1) * total // shape.layers
    later = np.diff(layer) - shape.top_k  # [L], of all tokens but the first
    reached = np.arange(tokens)[:, None] * later // (tokens - 1)
    misses: Int = np.diff(reached, axis=0, prepend=0)
    misses[0] = shape.top_k
    if later.min() < 0 or misses.max() > shape.top_k:
        raise ValueError(f"{tokens} tokens cannot have a hit rate of {hit_rate}")
    return misses


def _demands(shape: ModelShape, misses: Int) -> Int:
    """`[tokens, K]` int16: the experts of one layer."""
    order = list(range(shape.experts))  # least recently used first
    found = np.empty((len(misses), shape.top_k), np.int16)
    for token, missing in enumerate(misses):
        used = [*order[:missing], *order[shape.experts - shape.top_k + missing :]]
        order = [expert for expert in order if expert not in used] + used
        found[token] = used
    return found
