"""What the searches of whole iterations will say, as objects for the hooks and as arrays to be kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.types import Nearest, Prefetch

Arrays = Mapping[str, NDArray[Any]]

_UNTOLD = Nearest(np.zeros(0, np.intp), np.zeros(0, np.float32))  # of predictions that are told: only plans are kept


@dataclass(slots=True)
class Answers:
    """What the searches of one iteration will say, and what is charged for them."""

    rows: int  # records
    entries: int  # of the store when the iteration begins; 0: nothing is searched
    stored: int  # and when it has ended
    embedded: bool  # whether the records have embeddings
    found: list[Nearest]  # by the layer of the search; a semantic one is the last, its layer is −1
    plans: list[list[Prefetch]]  # likewise, of the layers that the search guides


def packed(answers: Sequence[Answers], layers: int, experts: int) -> dict[str, NDArray[Any]]:
    """Answers as arrays, of searches that guide one layer each, a semantic one the layers before those.

    A row per iteration: `rows`, `entries`, `stored`, `embedded`, and for each layer the `sizes` `[N, L]` of its plan
    (−1: there is none) and the `beliefs` `[N, L, J]`. The `experts` and `weights` of all plans follow one another.
    """
    sizes = np.full((len(answers), layers), -1, np.int32)
    beliefs = np.zeros((len(answers), layers, experts), np.float32)
    made: list[Prefetch] = []
    for number, answer in enumerate(answers):
        own = [*chain(*answer.plans[-1:], *answer.plans[:-1])] if answer.embedded else [*chain(*answer.plans)]
        for plan in own:
            sizes[number, plan.layer] = len(plan.experts)
            beliefs[number, plan.layer] = plan.belief
        made += own
    return {
        "rows": np.array([answer.rows for answer in answers], np.int32),
        "entries": np.array([answer.entries for answer in answers], np.int32),
        "stored": np.array([answer.stored for answer in answers], np.int32),
        "embedded": np.array([answer.embedded for answer in answers], bool),
        "sizes": sizes,
        "beliefs": beliefs,
        "experts": np.fromiter(chain.from_iterable(plan.experts for plan in made), np.uint16),
        "weights": np.fromiter(chain.from_iterable(plan.weights for plan in made), np.float32),
    }


def unpacked(arrays: Arrays, distance: int) -> list[Answers]:
    """The answers that `packed` was given, without what was found.

    `distance` is the first layer that a trajectory search guides.
    """
    sizes, beliefs = arrays["sizes"].tolist(), arrays["beliefs"].astype(np.float64)
    experts, weights = arrays["experts"].tolist(), arrays["weights"].tolist()
    charged = zip(*(arrays[name].tolist() for name in ("rows", "entries", "stored", "embedded")), strict=True)
    answers, begin = [], 0
    for of_layers, believed, (rows, entries, stored, embedded) in zip(sizes, beliefs, charged, strict=True):
        own: list[Prefetch] = []
        for layer, (size, belief) in enumerate(zip(of_layers, believed, strict=True)):
            if size >= 0:
                end = begin + size
                own.append(Prefetch(layer, experts[begin:end], weights[begin:end], belief))
                begin = end
        plans = []
        if entries:
            first = distance if embedded else 0  # of those that have a search of their own
            plans = [[each] for each in own[first:]] + ([own[:first]] if embedded else [])
        answers.append(Answers(rows, entries, stored, embedded, [_UNTOLD] * (len(sizes[0]) + 1), plans))
    return answers
