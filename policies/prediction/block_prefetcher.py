"""Prefetchers that answer the searches of whole iterations in advance, by prediction or replay."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray
from typing_extensions import override

from policies.base import Prefetcher
from policies.prediction.plan_arrays import Arrays
from policies.types import Iteration, Setup

A = TypeVar("A")  # the answers to the searches of one iteration


class BlockPrefetcher(Prefetcher, Generic[A]):
    """Prepares answers for blocks of iterations; `prepared` stays empty if the driver does not predict in blocks.

    A subclass defines how answers are `predicted`, `packed` and `unpacked`.
    """

    block = 64

    @override
    def start(self, setup: Setup) -> None:
        self.prepared: dict[int, A] = {}  # by iteration

    @override
    def predict_block(self, iterations: Sequence[Iteration]) -> None:
        self._prepare(iterations, self.predicted(iterations))

    @override
    def predictions(self) -> dict[str, NDArray[Any]]:
        return self.packed(list(self.prepared.values()))

    @override
    def replay(self, iterations: Sequence[Iteration], predictions: Mapping[str, NDArray[Any]]) -> None:
        self._prepare(iterations, self.unpacked(predictions))

    def predicted(self, iterations: Sequence[Iteration]) -> Iterable[A]:
        """The answers for coming iterations, one after the other; also learns from these iterations."""
        raise NotImplementedError

    def packed(self, answers: Sequence[A]) -> dict[str, NDArray[Any]]:
        """Pack answers as arrays."""
        raise NotImplementedError

    def unpacked(self, arrays: Arrays) -> Iterable[A]:
        """The answers that `packed` received, as far as a replay needs them."""
        raise NotImplementedError

    def _prepare(self, iterations: Sequence[Iteration], answers: Iterable[A]) -> None:
        self.prepared = {each.batch.iteration: answer for each, answer in zip(iterations, answers, strict=True)}
