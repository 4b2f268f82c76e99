"""Time the operations of a model as one layer runs them, on random weights, by tokens.

Several sets of weights, together larger than any cache of the device, are used in turn.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from policies.types import ModelShape
from sim.hardware.memory import dense_weights
from sim.hardware.work import Work, dense_work, expert_work, head_work
from validate.rates.device_timer import DeviceTimer, Launch, Timing

_LARGER_THAN_CACHES = 1 << 28  # bytes
_PIECES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationTime:
    """An operation on so many tokens (for the head: rows), with its arithmetic, memory traffic and time."""

    model: str
    operation: str
    tokens: int
    context: int
    """Cached positions; only for `dense`."""
    attended: int
    """(token, position) pairs; only for `dense`."""
    flops: float
    memory_bytes: float
    timing: Timing


class Operations:
    """The operations of a model on a device, in one precision."""

    def __init__(self, model: ModelShape, timer: DeviceTimer, dtype: torch.dtype) -> None:
        self._model = model
        self._timer = timer
        self._dtype = dtype

    def expert(self, tokens: int) -> OperationTime:
        """Time a routed expert: two matrices with a gate between them, and one back."""
        model = self._model
        weights = self._in_turn(3 * model.hidden * model.expert_ffn, lambda: self._gated(model.expert_ffn))
        hidden = self._random(tokens, model.hidden)

        def launch(piece: int) -> Tensor:
            return _gated_layer(hidden, *weights[piece % len(weights)])

        return self._timed("expert", tokens, expert_work(model, tokens), launch)

    def dense(self, tokens: int, context: int) -> OperationTime:
        """Time attention, router and shared experts of one layer: for a prompt, or for one token with a context."""
        model = self._model
        heads, kv = model.attention_heads * model.head_dim, model.kv_heads * model.head_dim

        def layer() -> tuple[Tensor, ...]:
            attention = [self._random(heads + 2 * kv, model.hidden), self._random(model.hidden, heads)]
            shared = self._gated(model.shared_ffn) if model.shared_ffn else ()
            return (*attention, self._random(model.experts, model.hidden), *shared)

        weights = self._in_turn(dense_weights(model), layer)
        hidden = self._random(tokens, model.hidden)
        cached = self._random(2, 1, model.kv_heads, context, model.head_dim)

        def launch(piece: int) -> Tensor:
            qkv, back, router, *shared = weights[piece % len(weights)]
            query = linear(hidden, qkv)[:, :heads].view(1, tokens, model.attention_heads, -1).transpose(1, 2)
            attended = scaled_dot_product_attention(
                query, cached[0], cached[1], is_causal=tokens > 1, enable_gqa=model.kv_heads < model.attention_heads
            )
            out = linear(attended.transpose(1, 2).reshape(tokens, heads), back)
            linear(out, router)
            return _gated_layer(out, *shared) if shared else out

        attended = tokens * (tokens + 1) // 2 if tokens > 1 else context
        needed = dense_work(model, tokens, context, attended)
        return self._timed("dense", tokens, needed, launch, context=context, attended=attended)

    def head(self, rows: int) -> OperationTime:
        """Time the output projection."""
        model = self._model
        weights = self._in_turn(model.hidden * model.vocab, lambda: (self._random(model.vocab, model.hidden),))
        hidden = self._random(rows, model.hidden)

        def launch(piece: int) -> Tensor:
            return linear(hidden, *weights[piece % len(weights)])

        return self._timed("head", rows, head_work(model, rows), launch)

    def expert_launcher(self, tokens: int, pieces: int) -> Callable[[], object]:
        """A function that launches `pieces` experts, each on so many tokens."""
        model = self._model
        weights = self._in_turn(3 * model.hidden * model.expert_ffn, lambda: self._gated(model.expert_ffn))
        hidden = self._random(tokens, model.hidden)
        return self._timer.launcher(lambda piece: _gated_layer(hidden, *weights[piece % len(weights)]), pieces)

    def _timed(
        self,
        operation: str,
        tokens: int,
        needed: Work,
        launch: Launch,
        *,
        context: int = 0,
        attended: int = 0,
    ) -> OperationTime:
        with torch.no_grad():
            timing = self._timer.timed(launch, _PIECES)
        return OperationTime(
            model=self._model.name,
            operation=operation,
            tokens=tokens,
            context=context,
            attended=attended,
            flops=needed.flops,
            memory_bytes=needed.numbers * self._dtype.itemsize,
            timing=timing,
        )

    def _in_turn(self, numbers: int, make: Callable[[], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        """Enough sets of weights to exceed the caches; only two on a CPU, which is just a rehearsal."""
        size = numbers * self._dtype.itemsize
        return [make() for _ in range(1 + (_LARGER_THAN_CACHES // size if self._timer.on_gpu else 1))]

    def _gated(self, ffn: int) -> tuple[Tensor, ...]:
        return self._random(2 * ffn, self._model.hidden), self._random(self._model.hidden, ffn)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=self._dtype, device=self._timer.device) / 64


def operation_times(
    model: ModelShape, timer: DeviceTimer, dtype: torch.dtype, sizes: list[int], context: int
) -> Iterator[OperationTime]:
    """Time every operation at these sizes; one token attends to `context` positions, a prompt to itself."""
    operations = Operations(model, timer, dtype)
    for size in sizes:
        yield operations.expert(size)
        yield operations.dense(size, context if size == 1 else size)
    for rows in (size for size in sizes if size <= 64):
        yield operations.head(rows)


def _gated_layer(hidden: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = linear(hidden, gate_up).chunk(2, dim=-1)
    return linear(silu(gate) * up, down)
