"""The answers to the searches of whole iterations, as objects for the hooks and as arrays to store."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.prediction.plan_arrays import Arrays, Plans, packed_plans, unpacked_plans
from policies.types import Nearest, Prefetch

_NO_ENTRIES = np.zeros(0, np.intp)
NOT_KEPT = Nearest(_NO_ENTRIES, np.zeros(0, np.float32))  # in a replay: only plans are stored, not what was found


@dataclass(slots=True)
class Answers:
    """The answers to the searches of one iteration, and what is charged for them."""

    rows: int  # records
    entries: int  # in the store when the iteration begins; 0: nothing is searched
    stored: int  # in the store when it has ended
    embedded: bool  # whether the records have embeddings
    found: list[Nearest]  # by the layer of the search; a semantic one comes last, its layer is −1
    plans: list[list[Prefetch]]  # likewise, for the layers that the search guides


def packed(answers: Sequence[Answers], layers: int, experts: int) -> dict[str, NDArray[Any]]:
    """Pack answers as arrays; each search must guide one layer, a semantic one the layers before those.

    A row per iteration: `rows`, `entries`, `stored`, `embedded`, and `scores` `[L + 1]`, the mean score of each search,
    NaN where there is no search. The plans are packed by layer.
    """
    plans: list[Plans] = []
    scores = np.full((len(answers), layers + 1), np.nan)
    for answer, means in zip(answers, scores, strict=True):
        means[: len(answer.found)] = [found.mean_score() for found in answer.found]
        own: Plans = [None] * layers
        for plan in chain.from_iterable(answer.plans):
            own[plan.layer] = plan
        plans.append(own)
    return {
        "rows": np.array([answer.rows for answer in answers], np.int32),
        "entries": np.array([answer.entries for answer in answers], np.int32),
        "stored": np.array([answer.stored for answer in answers], np.int32),
        "embedded": np.array([answer.embedded for answer in answers], bool),
        "scores": scores,
        **packed_plans(plans, experts),
    }


def unpacked(arrays: Arrays, distance: int) -> list[Answers]:
    """The answers that `packed` received; of what was found, only the mean score is left.

    `distance` is the first layer that a trajectory search guides.
    """
    layers = arrays["sizes"].shape[1]
    charged = zip(*(arrays[name].tolist() for name in ("rows", "entries", "stored", "embedded")), strict=True)
    answers = []
    scores = np.array(arrays["scores"])  # [N, L + 1]
    for by_layer, means, (rows, entries, stored, embedded) in zip(
        unpacked_plans(arrays, range(layers)), scores, charged, strict=True
    ):
        found = [Nearest(_NO_ENTRIES, means[layer : layer + 1]) for layer in range(layers + 1)]
        plans = []
        if entries:
            plans = [[plan] for plan in by_layer[distance:] if plan is not None]
            if embedded:
                plans.append([plan for plan in by_layer[:distance] if plan is not None])
        answers.append(Answers(rows, entries, stored, embedded, found, plans))
    return answers
