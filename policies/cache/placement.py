"""The GPU on which each expert lives, and the number of slots of each GPU."""

from typing import Literal

import numpy as np

from common.errors import FieldError, UserError
from policies.executed import tokens_by_expert
from policies.types import History, Int, ModelShape

Placement = Literal["round-robin", "balanced"]


def place(name: Placement, model: ModelShape, gpus: int, history: History | None, counts: Int | None = None) -> Int:
    """`[L, J]` GPU of each expert under a named placement; `balanced` uses `counts` `[L, J]`, or else the history."""
    if name == "round-robin":
        return round_robin(model, gpus)
    if counts is not None:
        return balanced(counts, gpus)
    if not history:
        raise FieldError("placement", "balanced needs a history; raise `train_split`, or give `history` or `counts`")
    return balanced(demand_counts(model, history), gpus)


def round_robin(model: ModelShape, gpus: int) -> Int:
    """`[L, J]` GPU of each expert, dealt in turn (paper §5: expert parallelism through a hash map)."""
    return (np.arange(model.total_experts) % gpus).reshape(model.layers, model.experts)


def homes_of(home: Int, replicas: int, gpus: int) -> Int:
    """`[L, J, R]` the GPUs on which each expert may live: its own in `home` `[L, J]`, then the next ones, cyclically.

    More expert parallelism adds replicas and so offloading opportunities (paper §7).
    """
    check_replicas(replicas, gpus)
    return (home[..., None] + np.arange(replicas)) % gpus


def check_replicas(replicas: int, gpus: int) -> None:
    """A `UserError` unless 1 ≤ R ≤ G."""
    if not 1 <= replicas <= gpus:
        raise FieldError("replicas", f"must be from 1 to {gpus}, the number of GPUs, not {replicas}")


def demand_counts(model: ModelShape, history: History) -> Int:
    """`[L, J]` number of iterations of the history that demanded each expert."""
    counts = np.zeros((model.layers, model.experts), np.int64)
    for recorded in history:
        prefill = recorded.iteration == 0
        counts += tokens_by_expert(recorded.experts[~prefill], model.experts)
        counts += tokens_by_expert(recorded.experts[prefill], model.experts) > 0
    return counts


def balanced(counts: Int, gpus: int) -> Int:
    """`[L, J]` GPU of each expert such that each layer's demands `[L, J]` are spread evenly over the GPUs.

    Greedy: the experts of a layer in falling demand, ties by id, each to the GPU with the least demand so far in this
    layer, then in earlier layers, then with the lowest number. Every GPU gets as many experts of each layer as under
    round-robin, and so as many in all.
    """
    layers, experts = counts.shape
    dealt = (np.arange(layers * experts) % gpus).reshape(layers, experts)
    home = np.empty((layers, experts), np.int64)
    total = [0] * gpus
    for layer, row in enumerate(counts.tolist()):
        room = np.bincount(dealt[layer], minlength=gpus).tolist()
        load = [0] * gpus
        for expert in sorted(range(experts), key=lambda expert: -row[expert]):
            gpu = min((gpu for gpu in range(gpus) if room[gpu]), key=lambda gpu: (load[gpu], total[gpu], gpu))
            home[layer, expert] = gpu
            room[gpu] -= 1
            load[gpu] += row[expert]
        total = [before + more for before, more in zip(total, load, strict=True)]
    return home


def least_slots(model: ModelShape, gpus: int) -> int:
    """The smallest cache: room for the experts of one token in one layer, and a slot on every GPU."""
    return max(model.top_k, gpus)


def split_slots(model: ModelShape, total: int, gpus: int) -> list[int]:
    """Slots per GPU of a cache of `total` experts: split evenly, the remainder to the lowest numbers.

    A `UserError` unless top-k ≤ total ≤ L·J and every GPU gets at least one slot.
    """
    least = least_slots(model, gpus)
    if not least <= total <= model.total_experts:
        raise UserError(
            f"room for {total} expert{'s' * (total != 1)}; the cache must hold {least} to {model.total_experts} for "
            f"{model.name} on {gpus} GPU{'s' * (gpus > 1)} (top-{model.top_k}, one slot per GPU)"
        )
    return [total // gpus + (gpu < total % gpus) for gpu in range(gpus)]
