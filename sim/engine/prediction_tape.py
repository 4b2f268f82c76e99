"""Predictions of one run, told to other runs of the same requests.

Under fixed batches some prefetchers predict the same whatever the clock, the cache, the evictor and the machine. What
one of them predicted in one run is noted as arrays, and a run of another cache or machine is told it: there no history
is read, and nothing is searched or learned. The outcome is the same to the last bit.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from policies.base import Policy, Prefetcher, Setting
from policies.registry import is_own, make_policy
from policies.types import Iteration, Setup

_PER_EXPERT, _PER_PLAN = ("experts", "weights"), ("beliefs",)  # other arrays have a row per iteration


def shared_predictions(policy: str, *, check: bool = False) -> dict[str, Setting] | None:
    """On what the predictions of a policy depend, of its own: its prefetcher's class and settings.

    None if they cannot be shared, as those of a policy that is checked. They depend further on the requests, their
    order and batch size, the history, the seed, and the model's layers, experts and top-k.
    """
    if check or not is_own(policy):
        return None
    prefetcher = make_policy(policy).prefetcher
    settings = prefetcher.prediction_settings()
    kind = type(prefetcher)
    return None if settings is None else {"prefetcher": f"{kind.__module__}:{kind.__qualname__}", **settings}


class PredictionTape:
    """Notes the predictions of one run; or tells a run those in `arrays`, which may be read-only and lie in a file.

    A tape is for one run. The iterations that it tells must be those that it has noted, or the first of them.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._told = arrays
        self._noted: list[dict[str, NDArray[Any]]] = []
        self._done = 0  # iterations that were told
        if arrays is not None and "sizes" in arrays:
            sizes = arrays["sizes"]
            # Where the plans of each iteration begin, and their experts.
            self._plans = [0, *np.count_nonzero(sizes >= 0, axis=1).cumsum().tolist()]
            self._experts = [0, *np.maximum(sizes, 0).sum(axis=1, dtype=np.int64).cumsum().tolist()]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that was noted, once the run is over."""
        state = {"note": self._prefetcher.note, "generator": self._generator}
        answer = {"start": np.frombuffer(json.dumps(state).encode(), np.uint8)}
        for name in self._noted[0] if self._noted else ():
            answer[name] = np.concatenate([each[name] for each in self._noted])
        return answer

    def start(self, policy: Policy, setup: Setup) -> None:
        """Start the policy; where it is told, its generator goes on as if the prefetcher had drawn from it."""
        self._prefetcher = prefetcher = policy.prefetcher
        if prefetcher.prediction_settings() is None:
            raise ValueError(f"{type(prefetcher).__name__} does not share its predictions")
        generator = setup.rng.bit_generator
        told = self._told

        def prefetcher_started() -> None:
            if told is None:
                self._generator = generator.state
            else:
                state = json.loads(told["start"].tobytes())
                prefetcher.note, generator.state = state["note"], state["generator"]

        prefetcher.told = told is not None
        policy.start(setup, prefetcher_started)

    def predict_block(self, prefetcher: Prefetcher, iterations: Sequence[Iteration]) -> None:
        """Let the prefetcher predict these iterations and note it, or tell it its predictions."""
        tokens = [len(each.batch.token) for each in iterations]
        if self._told is None:
            prefetcher.predict_block(iterations)
            self._noted.append({"tokens": np.array(tokens, np.int32), **prefetcher.predictions()})
            return
        first, end = self._done, self._done + len(iterations)
        if "sizes" not in self._told or end > len(self._told["sizes"]):
            raise UserError(f"predictions of another run: they end before iteration {iterations[-1].batch.iteration}")
        parts = {name: slice(self._experts[first], self._experts[end]) for name in _PER_EXPERT}
        parts |= {name: slice(self._plans[first], self._plans[end]) for name in _PER_PLAN}
        told = {
            name: array[parts.get(name, slice(first, end))] for name, array in self._told.items() if name != "start"
        }
        for each, has, noted in zip(iterations, tokens, told.pop("tokens").tolist(), strict=True):
            if has != noted:
                raise UserError(
                    f"predictions of another run: iteration {each.batch.iteration} has {has} tokens, the predictions "
                    f"are of {noted}"
                )
        prefetcher.tell(iterations, told)
        self._done = end
