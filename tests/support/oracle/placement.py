"""Where experts live, and how many slots each GPU has."""

from collections.abc import Sequence

from policies.types import ModelShape, RecordedRequest

Expert = tuple[int, int]  # layer and expert


def slots_of(experts: int, gpus: int) -> list[int]:
    return [experts // gpus + (gpu < experts % gpus) for gpu in range(gpus)]


def round_robin(model: ModelShape, gpus: int) -> dict[Expert, int]:
    return {
        (layer, expert): (layer * model.experts + expert) % gpus
        for layer in range(model.layers)
        for expert in range(model.experts)
    }


def balanced(model: ModelShape, gpus: int, history: Sequence[RecordedRequest]) -> dict[Expert, int]:
    """By the iterations of the history that demand each expert."""
    demand = dict.fromkeys(round_robin(model, gpus), 0)
    for each in history:
        for iteration in set(each.iteration.tolist()):
            rows = each.experts[each.iteration == iteration]
            for layer in range(model.layers):
                for expert in set(rows[:, layer].ravel().tolist()) - {-1}:
                    demand[layer, expert] += 1
    home: dict[Expert, int] = {}
    before = [0] * gpus
    for layer in range(model.layers):
        dealt = [round_robin(model, gpus)[layer, expert] for expert in range(model.experts)]
        room = [dealt.count(gpu) for gpu in range(gpus)]
        here = [0] * gpus
        for expert in sorted(range(model.experts), key=lambda expert: (-demand[layer, expert], expert)):
            gpu = min((gpu for gpu in range(gpus) if room[gpu]), key=lambda gpu: (here[gpu], before[gpu], gpu))
            home[layer, expert] = gpu
            room[gpu] -= 1
            here[gpu] += demand[layer, expert]
        before = [old + new for old, new in zip(before, here, strict=True)]
    return home
