"""The plans of whole iterations as arrays, so that one run can store them for others."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from policies.types import Prefetch

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Plans: TypeAlias = list[Prefetch | None]  # of one iteration, by place

_NONE, _SAME = -1, -2  # sizes: no plan in this place; the same plan as in the iteration before


class PackedIterations:
    """Arrays with a row per iteration, and the plans of these iterations as `packed_plans` returns them."""

    def __init__(self, arrays: Arrays) -> None:
        sizes = arrays["sizes"]
        experts = [0, *np.maximum(sizes, 0).sum(axis=1, dtype=np.int64).cumsum().tolist()]
        plans = [0, *np.count_nonzero(sizes >= 0, axis=1).cumsum().tolist()]
        self._arrays = arrays
        self._begins = {"experts": experts, "weights": experts, "beliefs": plans}  # [N + 1] of each iteration

    def __len__(self) -> int:
        return len(self._arrays["sizes"])

    def sliced(self, first: int, end: int) -> dict[str, NDArray[Any]]:
        """The arrays of iterations `first` … `end` - 1; a call of `packed_plans` must have begun with `first`."""
        rows = range(len(self) + 1)
        begins = {name: self._begins.get(name, rows) for name in self._arrays}
        return {name: array[begins[name][first] : begins[name][end]] for name, array in self._arrays.items()}


def packed_plans(plans: Sequence[Plans], experts: int) -> dict[str, NDArray[Any]]:
    """Pack the plans of `N` iterations as arrays; each iteration has the same `S` places for plans, each of one layer.

    `sizes` `[N, S]` are negative where there is no plan, or the same object as in the iteration before. The `beliefs`
    `[P, J]` of the other `P` plans follow one another, and so do their `experts` and `weights`.
    """
    sizes = np.full((len(plans), len(plans[0])), _NONE, np.int32)
    made: list[Prefetch] = []
    before: Plans = [None] * len(plans[0])
    for number, own in enumerate(plans):
        for place, (plan, earlier) in enumerate(zip(own, before, strict=True)):
            if plan is not None:
                if plan is earlier:
                    sizes[number, place] = _SAME
                else:
                    sizes[number, place] = len(plan.experts)
                    made.append(plan)
        before = own
    return {
        "sizes": sizes,
        "beliefs": np.array([plan.belief for plan in made], np.float32).reshape(-1, experts),
        "experts": np.fromiter(chain.from_iterable(plan.experts for plan in made), np.uint16),
        "weights": np.fromiter(chain.from_iterable(plan.weights for plan in made), np.float32),
    }


def unpacked_plans(arrays: Arrays, layers: Sequence[int]) -> list[Plans]:
    """The plans that `packed_plans` received; `layers` `[S]` are the layers of the places."""
    experts, weights = arrays["experts"].tolist(), arrays["weights"].tolist()
    beliefs = iter(arrays["beliefs"].astype(np.float64))
    answer: list[Plans] = []
    before: Plans = [None] * len(layers)
    begin = 0
    for sizes in arrays["sizes"].tolist():
        own: Plans = []
        for layer, size, plan in zip(layers, sizes, before, strict=True):
            if size >= 0:
                end = begin + size
                own.append(Prefetch(layer, experts[begin:end], weights[begin:end], next(beliefs)))
                begin = end
            else:
                own.append(plan if size == _SAME else None)
        answer.append(own)
        before = own
    return answer
