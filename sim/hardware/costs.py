"""What the parts of an iteration cost in seconds: the questions that the engine asks, and what all answers share."""

from typing import Protocol

from policies.types import ModelShape, Rates, Search
from sim.hardware.effects import Effects

_SEARCH_NUMBER_BYTES = 4  # the store is float32


class Cost(Protocol):
    """Seconds for the parts of an iteration: what the engine asks a `CostModel` or a `MeasuredCost`."""

    @property
    def launch_s(self) -> float:
        """What starting one operation takes, which is part of `dense_s`, `expert_s` and `head_s`; 0 if not known."""
        ...

    @property
    def driving_s(self) -> float:
        """What driving the offloading takes in each layer after its last expert."""
        ...

    @property
    def effects(self) -> Effects:
        """How the parts slow each other down."""
        ...

    def dense_s(self, tokens: int, context: int, attended: int) -> float:
        """What every layer does before its experts."""
        ...

    def expert_s(self, tokens: int) -> float:
        """One routed expert."""
        ...

    def exchange_s(self, tokens: int) -> float:
        """Activation exchange between GPUs after a layer's experts."""
        ...

    def head_s(self, rows: int) -> float:
        """The output projection."""
        ...

    def copy_s(self, size_bytes: int) -> float:
        """A chunk of an expert from host memory to its device."""
        ...

    def copy_latency_s(self, size_bytes: int) -> float:
        """The part of `copy_s` before the first byte moves."""
        ...

    def least_copy_s(self, size_bytes: int) -> float:
        """The least that an expert of so many bytes takes on its link, in whatever chunks it moves."""
        ...

    def search_s(self, search: Search) -> float:
        """A search, or a store update."""
        ...


def rates_of(cost: Cost, model: ModelShape, gpus: int) -> Rates:
    """What a policy may know of a machine: times of copies, of a layer and of searches.

    A layer of T tokens takes as many experts as it can, min(K · T, J), dealt evenly to the GPUs, and each expert an
    equal share of the tokens; nothing is cached from before, and nothing is copied meanwhile.
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
