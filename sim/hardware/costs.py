"""Seconds for compute, copies and searches, from a roofline of the hardware.

An operation takes the longer of its arithmetic at the peak rate and its memory traffic at the peak bandwidth, plus a
fixed overhead. Weights and activations are in the model's own precision.
"""

from functools import cache
from typing import Protocol

from policies.types import ModelShape, Search
from sim.hardware.presets import Hardware

_SEARCH_NUMBER_BYTES = 4  # the store is float32


class Cost(Protocol):
    """Seconds for the parts of an iteration: what the engine asks a `CostModel` or a `MeasuredCost`."""

    def dense_s(self, tokens: int, context: int, attended: int) -> float:
        """What every layer does before its experts."""
        ...

    def expert_s(self, tokens: int) -> float:
        """One routed expert."""
        ...

    def exchange_s(self, tokens: int) -> float:
        """What follows the last expert of a layer."""
        ...

    def head_s(self, rows: int) -> float:
        """The output projection."""
        ...

    def copy_s(self, size_bytes: int) -> float:
        """A chunk of an expert from host memory to its device."""
        ...

    def search_s(self, search: Search) -> float:
        """A search, or a store update."""
        ...


class CostModel:
    """What the parts of an iteration of `model` cost on `hardware`."""

    def __init__(self, model: ModelShape, hardware: Hardware) -> None:
        self.model = model
        self.hardware = hardware
        heads = model.attention_heads * model.head_dim
        keys_values = 2 * model.kv_heads * model.head_dim
        self._attention_weights = model.hidden * (2 * heads + keys_values)
        self._attention_width = heads
        self._kv_width = keys_values
        self._dense_weights = self._attention_weights + model.hidden * (model.experts + 3 * model.shared_ffn)
        self.expert_s = cache(self._expert_s)

    def dense_s(self, tokens: int, context: int, attended: int) -> float:
        """What every layer does on one GPU before its experts: attention, router and shared experts.

        `context` is the number of cached positions of all requests together, `attended` the number of (token, position)
        pairs that attention scores.
        """
        flops = 2.0 * tokens * self._dense_weights + 4.0 * attended * self._attention_width
        numbers = self._dense_weights + context * self._kv_width + 2 * tokens * self.model.hidden
        return self._roofline(flops, numbers)

    def _expert_s(self, tokens: int) -> float:
        """One routed expert on so many tokens; called as `expert_s`."""
        weights = 3 * self.model.hidden * self.model.expert_ffn
        return self._roofline(2.0 * tokens * weights, weights + 2 * tokens * self.model.hidden)

    def exchange_s(self, tokens: int) -> float:
        """Activations to the experts' GPUs and back; nothing on a single GPU."""
        gpus = self.hardware.gpus
        if gpus == 1:
            return 0.0
        away = tokens * self.model.hidden * self.model.weight_bytes * (gpus - 1) / gpus
        return 2 * self.hardware.peer_link.copy_s(away)

    def head_s(self, rows: int) -> float:
        """The output projection for the last token of each request."""
        weights = self.model.hidden * self.model.vocab
        return self._roofline(2.0 * rows * weights, weights + rows * self.model.vocab)

    def copy_s(self, size_bytes: int) -> float:
        """A chunk of an expert from host memory to its GPU."""
        return self.hardware.host_link.copy_s(size_bytes)

    def search_s(self, search: Search) -> float:
        """A search, or a store update, which compares with every entry likewise."""
        hardware = self.hardware
        rates = hardware.search_bytes_per_s, hardware.search_flops_per_s
        return hardware.search_overhead_s + comparing_s(search, *rates)

    def _roofline(self, flops: float, numbers: float) -> float:
        gpu = self.hardware.gpu
        return gpu.overhead_s + max(flops / gpu.flops_per_s, numbers * self.model.weight_bytes / gpu.memory_bytes_per_s)


def comparing_s(search: Search, bytes_per_s: float, flops_per_s: float) -> float:
    """The longer of reading the store and computing with it."""
    numbers = float(search.entries) * search.dims
    return max(numbers * _SEARCH_NUMBER_BYTES / bytes_per_s, 2 * search.rows * numbers / flops_per_s)
