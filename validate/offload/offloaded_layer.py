"""The replacement for a layer's experts: computes from slots, bit for bit as the model class's own loop does.

The bits of a matrix product may depend on its number of rows and on their order. So each expert is computed with all
rows that the router gave it, in the order of that loop, and contributions are added in the order of the experts,
whatever the order of arrival.

Padding and ended requests are rows too. They are hidden from policies and take no slots: an expert that only such rows
need is read from the slow storage. It cannot be left out, since those rows would then go to other experts in later
layers and change the number of rows of their products.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from policies.types import Float, Gate, Int
from validate.driver.threaded_driver import Driver
from validate.offload.arena import Arena

NAME = "finemoe_lab"  # in Transformers' table of experts implementations

_LAYER = "finemoe_lab_layer"  # attribute of an experts module while a run is open
_Places = dict[int, tuple[Tensor | None, Tensor]]  # per expert its rows `[n]`, None for the only row; weights `[n, 1]`


@dataclass(slots=True)
class Rows:
    """State that the layers of the running pass share."""

    real: Int | None = None  # [T] which rows of the pass are tokens of running requests; None: all
    maps: Float = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))  # [T, L, J] float32, filled by gates
    experts: list[Int] = field(default_factory=list)  # of each layer so far, [T, K]


@dataclass(slots=True)
class OffloadedLayer:
    """One MoE layer of a run."""

    layer: int
    count: int  # J
    driver: Driver
    arena: Arena
    rows: Rows
    probs: Tensor | None = None  # [rows, J] float16, the router's last output
    ahead: dict[int, Tensor] = field(default_factory=dict)  # {distance: [rows, J]}, a later router's for the same input

    def output(self, experts: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """`[rows, h]` from hidden states `[rows, h]`, the experts `[rows, K]` to execute and their weights `[rows, K]`.

        Exceptions of the driver pass through.
        """
        chosen = index.to(torch.int16).cpu().numpy()
        gate = self._gate(chosen)
        places = _places(chosen, weights, self.count)
        contributions: dict[int, Tensor] = {}
        cache, base = self.driver.cache, self.layer * self.count
        for expert in self.driver.gated(gate, _distinct(gate.experts, self.count)):
            number = base + expert
            parameters = self.arena.views(cache.home[number], cache.residency.slot[number])
            contributions[expert] = contribution(experts, hidden, *places[expert], parameters)
            self.driver.computed(expert)
        total = torch.zeros_like(hidden)
        for expert in sorted(places):
            rows, weight = places[expert]
            added = contributions.get(expert)
            if added is None:
                parameters = self.arena.records.views(base + expert)
                added = contribution(experts, hidden, rows, weight, parameters)
            if rows is None:
                total.add_(added)
            else:
                total.index_add_(0, rows, added)
        return total

    def _gate(self, chosen: Int) -> Gate:
        assert self.probs is not None  # a block calls its router first
        maps = self.rows.maps[:, self.layer]
        maps[:] = self._real(self.probs)
        ahead = {distance: self._real(probs) for distance, probs in self.ahead.items()}
        self.probs = None
        real = self.rows.real
        executed = chosen if real is None else chosen[real]
        self.rows.experts.append(executed)
        return Gate(self.layer, maps, executed, ahead)

    def _real(self, probs: Tensor) -> Float:
        """`[T, J]` float32 of the rows that are tokens of running requests."""
        on_host: Float = probs.float().cpu().numpy()
        return on_host if self.rows.real is None else on_host[self.rows.real]


def install(experts: nn.Module, layer: OffloadedLayer | None) -> None:
    """Make an experts module compute as `layer` of a run; None if no run is open."""
    if layer is None:
        experts.__dict__.pop(_LAYER, None)
    else:
        experts.__dict__[_LAYER] = layer


def register() -> None:
    """Make the implementation known to Transformers under `NAME`."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, _forward)


def _forward(experts: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    layer: OffloadedLayer | None = experts.__dict__.get(_LAYER)
    if layer is None:
        raise RuntimeError("the experts of this model are offloaded: it runs inside OffloadedModel.run() only")
    return layer.output(experts, hidden_states, top_k_index, top_k_weights)


def _distinct(chosen: Int, count: int) -> list[int]:
    """The experts in `[T, K]`, each once, in rising order."""
    if len(chosen) == 1:
        return sorted(chosen[0].tolist())
    distinct: list[int] = np.flatnonzero(np.bincount(chosen.ravel(), minlength=count)).tolist()
    return distinct


def _places(chosen: Int, weights: Tensor, count: int) -> _Places:
    """The rows and weights of each expert in `[rows, K]`, ordered by the router's order `K`, then by row."""
    if len(chosen) == 1:
        return {expert: (None, weights[:, k : k + 1]) for k, expert in enumerate(chosen[0].tolist())}
    flat = chosen.T.ravel()
    order = flat.argsort(kind="stable")
    ends = np.bincount(flat, minlength=count).cumsum().tolist()
    where = torch.from_numpy(order).to(weights.device)
    rows, weights = where % len(chosen), weights.T.reshape(-1)[where, None]
    starts = [0, *ends[:-1]]
    return {
        expert: (rows[start:end], weights[start:end])
        for expert, (start, end) in enumerate(zip(starts, ends, strict=True))
        if start < end
    }


def contribution(
    experts: nn.Module, hidden: Tensor, rows: Tensor | None, weights: Tensor, parameters: Mapping[str, Tensor]
) -> Tensor:
    """`[n, h]` the weighted output of one expert for its rows, by the same operations as the class's own loop."""
    states = hidden if rows is None else hidden[rows]
    states = _projected(experts, states, "gate_up_proj" if experts.has_gate else "up_proj", parameters)
    states = experts._apply_gate(states) if experts.has_gate else experts.act_fn(states)  # type: ignore[operator]
    states = _projected(experts, states, "down_proj", parameters)
    if getattr(experts, "has_post_expert_norm", False):  # Transformers 5.17 does not know it
        states = experts.post_expert_norm(states)  # type: ignore[operator]
    return (states * weights).to(hidden.dtype)


def _projected(experts: nn.Module, states: Tensor, name: str, parameters: Mapping[str, Tensor]) -> Tensor:
    matrix = parameters[name]
    states = states @ matrix if experts.is_transposed else linear(states, matrix)
    return states + parameters[f"{name}_bias"] if experts.has_bias else states
