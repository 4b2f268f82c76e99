"""The arithmetic and the memory traffic of each operation: the two sides of a roofline."""

from typing import NamedTuple

from policies.types import ModelShape
from sim.hardware.memory import dense_weights, kv_numbers


class Work(NamedTuple):
    """Arithmetic operations, and numbers that move to or from GPU memory."""

    flops: float
    numbers: int


def dense_work(model: ModelShape, tokens: int, context: int, attended: int) -> Work:
    """Attention, router and shared experts of one layer.

    `context` is the number of cached positions of all requests together, `attended` the number of (token, position)
    pairs that attention scores.
    """
    weights = dense_weights(model)
    width = model.attention_heads * model.head_dim
    numbers = weights + context * kv_numbers(model) + 2 * tokens * model.hidden
    return Work(2.0 * tokens * weights + 4.0 * attended * width, numbers)


def expert_work(model: ModelShape, tokens: int) -> Work:
    """One routed expert: three matrices."""
    weights = 3 * model.hidden * model.expert_ffn
    return Work(2.0 * tokens * weights, weights + 2 * tokens * model.hidden)


def head_work(model: ModelShape, rows: int) -> Work:
    """The output projection for this many rows."""
    weights = model.hidden * model.vocab
    return Work(2.0 * rows * weights, weights + rows * model.vocab)
