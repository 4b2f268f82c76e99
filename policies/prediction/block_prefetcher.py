"""Prefetchers that answer the searches of whole iterations in advance, by predicting or by replaying them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray
from typing_extensions import override

from policies.base import Prefetcher
from policies.prediction.plan_arrays import Arrays
from policies.types import Iteration, Setup

A = TypeVar("A")  # what the searches of one iteration will say


class BlockPrefetcher(Prefetcher, Generic[A]):
    """Prepares its answers to blocks of iterations; `prepared` stays empty where a driver does not predict in blocks.

    A subclass says how answers are `predicted`, `packed` and `unpacked`.
    """

    block = 64

    @override
    def start(self, setup: Setup) -> None:
        """Nothing is prepared."""
        self.prepared: dict[int, A] = {}  # by iteration

    @override
    def predict_block(self, iterations: Sequence[Iteration]) -> None:
        """Prepare the answers for these iterations."""
        self._prepare(iterations, self.predicted(iterations))

    @override
    def predictions(self) -> dict[str, NDArray[Any]]:
        """What will be planned and charged."""
        return self.packed(list(self.prepared.values()))

    @override
    def replay(self, iterations: Sequence[Iteration], predictions: Mapping[str, NDArray[Any]]) -> None:
        """Take the answers as they are; nothing is learned or searched."""
        self._prepare(iterations, self.unpacked(predictions))

    def predicted(self, iterations: Sequence[Iteration]) -> Iterable[A]:
        """The answers for iterations to come, one after the other; what is to be learned of them is learned."""
        raise NotImplementedError

    def packed(self, answers: Sequence[A]) -> dict[str, NDArray[Any]]:
        """Answers as arrays."""
        raise NotImplementedError

    def unpacked(self, arrays: Arrays) -> Iterable[A]:
        """The answers that `packed` was given, as far as they are needed again."""
        raise NotImplementedError

    def _prepare(self, iterations: Sequence[Iteration], answers: Iterable[A]) -> None:
        self.prepared = {each.batch.iteration: answer for each, answer in zip(iterations, answers, strict=True)}
