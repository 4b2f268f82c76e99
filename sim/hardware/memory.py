"""What GPU memory holds besides routed experts: the dense weights, and the keys and values of running requests.

Both are counted over all GPUs together. The dense part of a layer runs on one GPU, and layers may be spread over the
GPUs as memory allows. A machine on which the total does not fit cannot run the model; one on which it fits may still
need care in placing layers. Activations and norms are small and left out.
"""

from dataclasses import dataclass

from policies.types import ModelShape


def dense_weights(model: ModelShape) -> int:
    """Weights of one layer that every token needs: attention, router and shared experts."""
    heads = model.attention_heads * model.head_dim
    attention = model.hidden * (2 * heads + kv_numbers(model))
    return attention + model.hidden * (model.experts + 3 * model.shared_ffn)


def kv_numbers(model: ModelShape) -> int:
    """Keys and values of one position in one layer."""
    return 2 * model.kv_heads * model.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """Memory of all GPUs together, and the parts of it that experts cannot use."""

    total_bytes: float
    dense_bytes: float
    """Dense weights of all layers, the embedding and the output projection (two matrices, even where models tie
    them)."""
    kv_cache_bytes: float
    """Keys and values of the requests that run together, each as long as the longest."""

    @classmethod
    def of(cls, model: ModelShape, total_bytes: float, *, positions: int) -> "GpuMemory":
        """The memory when the running requests have cached this many positions in all."""
        dense = model.layers * dense_weights(model) + 2 * model.hidden * model.vocab
        return cls(
            total_bytes=total_bytes,
            dense_bytes=dense * model.weight_bytes,
            kv_cache_bytes=positions * model.layers * kv_numbers(model) * model.weight_bytes,
        )

    @property
    def room_bytes(self) -> float:
        """The bytes left for experts; negative if the rest alone does not fit."""
        return self.total_bytes - self.dense_bytes - self.kv_cache_bytes

    def fitting(self, model: ModelShape) -> int:
        """The number of the model's experts that fit beside the rest, even if it has fewer."""
        return max(0, int(self.room_bytes // model.expert_bytes))

    def fits(self, expert_bytes: float) -> bool:
        """Whether this many bytes of experts fit beside the rest."""
        return expert_bytes <= self.room_bytes
