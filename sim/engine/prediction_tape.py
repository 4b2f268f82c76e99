"""Predictions that one run records and other runs of the same requests replay.

Under fixed batches, the predictions of some prefetchers do not depend on the clock, the cache, the evictor or the
machine. One run records them as arrays; runs with other caches or machines replay them, without reading a history,
searching or learning. The outcome is the same to the last bit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from policies.base import Policy, Prefetcher
from policies.prediction.plan_arrays import PackedIterations
from policies.types import Iteration, Setup

_START, _TOKENS = "start", "tokens"  # the tape's own arrays, besides those of the prefetcher


class PredictionTape:
    """Records the predictions of one run, or replays those in `arrays`, which may be read-only and memory-mapped.

    A tape is for one run. It must replay the recorded iterations, or the first of them.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._arrays = arrays
        self._recorded: list[dict[str, NDArray[Any]]] = []  # by block
        self._replayed = 0  # iterations so far
        self._iterations: PackedIterations | None = None
        if arrays is not None and "sizes" in arrays:
            self._iterations = PackedIterations({name: each for name, each in arrays.items() if name != _START})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The recorded arrays, once the run is over."""
        state = {"note": self._prefetcher.note, "generator": self._generator}
        answer = {_START: np.frombuffer(json.dumps(state).encode(), np.uint8)}
        for name in self._recorded[0] if self._recorded else ():
            answer[name] = np.concatenate([each[name] for each in self._recorded])
        return answer

    def start(self, policy: Policy, setup: Setup) -> None:
        """Start the policy. When replaying, the generator continues as if the prefetcher had drawn from it."""
        self._prefetcher = prefetcher = policy.prefetcher
        if not prefetcher.shares_predictions:
            raise ValueError(f"{type(prefetcher).__name__} does not share its predictions")
        generator = setup.rng.bit_generator
        setup = replace(setup, replayed=self._arrays is not None)
        prefetcher.start(setup)
        if self._arrays is None:
            self._generator = generator.state
        else:
            state = json.loads(self._arrays[_START].tobytes())
            prefetcher.note, generator.state = state["note"], state["generator"]
        policy.evictor.start(setup)

    def predict_block(self, prefetcher: Prefetcher, iterations: Sequence[Iteration]) -> None:
        """Let the prefetcher predict these iterations and record the predictions, or replay them."""
        tokens = [len(each.batch.token) for each in iterations]
        if self._arrays is None:
            prefetcher.predict_block(iterations)
            self._recorded.append({_TOKENS: np.array(tokens, np.int32), **prefetcher.predictions()})
            return
        first, end = self._replayed, self._replayed + len(iterations)
        if self._iterations is None or end > len(self._iterations):
            raise UserError(f"predictions of another run: they end before iteration {iterations[-1].batch.iteration}")
        predictions = self._iterations.sliced(first, end)
        for each, has, recorded in zip(iterations, tokens, predictions.pop(_TOKENS).tolist(), strict=True):
            if has != recorded:
                raise UserError(
                    f"predictions of another run: iteration {each.batch.iteration} has {has} tokens, the predictions "
                    f"are of {recorded}"
                )
        prefetcher.replay(iterations, predictions)
        self._replayed = end
