"""The costs of the parts of an iteration, in seconds: the interface that the engine uses, and shared helpers."""

from typing import Protocol

from policies.types import ModelShape, Rates, Search
from sim.hardware.effects import Effects

_SEARCH_NUMBER_BYTES = 4  # the store is float32


class Cost(Protocol):
    """Seconds for the parts of an iteration. `CostModel`, `MeasuredCost` and `ScaledCost` implement it."""

    @property
    def launch_s(self) -> float:
        """The time to start one operation, which `dense_s`, `expert_s` and `head_s` include; 0 if unknown."""
        ...

    @property
    def driving_s(self) -> float:
        """The time to drive the offloading in each layer, after its last expert."""
        ...

    @property
    def effects(self) -> Effects:
        """How the parts of an iteration slow each other down."""
        ...

    def dense_s(self, tokens: int, context: int, attended: int) -> float:
        """The dense part of a layer, before its experts: attention, router and shared experts.

        `context` is the number of cached positions of all requests, `attended` the number of (token, position) pairs
        that attention scores.
        """
        ...

    def expert_s(self, tokens: int) -> float:
        """One routed expert on so many tokens."""
        ...

    def exchange_s(self, tokens: int) -> float:
        """Activation exchange between GPUs after a layer's experts."""
        ...

    def head_s(self, rows: int) -> float:
        """The output projection for the last token of each request."""
        ...

    def copy_s(self, size_bytes: int) -> float:
        """Copying a chunk of an expert from host memory to its device."""
        ...

    def copy_latency_s(self, size_bytes: int) -> float:
        """The part of `copy_s` before the first byte moves."""
        ...

    def least_copy_s(self, size_bytes: int) -> float:
        """A lower bound for copying an expert of so many bytes, whatever its chunks."""
        ...

    def search_s(self, search: Search) -> float:
        """A search, or a store update."""
        ...


def rates_of(cost: Cost, model: ModelShape, gpus: int) -> Rates:
    """What a policy may know about a machine: the times of copies, layers and searches.

    A layer of T tokens is assumed to execute as many experts as possible, min(K · T, J). They are spread evenly over
    the GPUs and get equal shares of the tokens. No positions are cached before, and nothing is copied meanwhile.
    """
    effects = cost.effects

    def layer_s(tokens: int) -> float:
        executed = model.top_k * tokens
        experts = min(executed, model.experts)
        experts_s = -(-experts // gpus) * cost.expert_s(-(-executed // experts))
        return (
            cost.dense_s(tokens, tokens, tokens * (tokens + 1) // 2)
            + experts_s
            + cost.exchange_s(tokens)
            + cost.driving_s
            + (effects.layer_host_s + experts * effects.expert_host_s)
        )

    return Rates(copy_s=cost.copy_s, layer_s=layer_s, search_s=cost.search_s)


def comparing_s(search: Search, bytes_per_s: float, flops_per_s: float) -> float:
    """The longer of reading the store and computing with it."""
    numbers = float(search.entries) * search.dims
    return max(numbers * _SEARCH_NUMBER_BYTES / bytes_per_s, 2 * search.rows * numbers / flops_per_s)
