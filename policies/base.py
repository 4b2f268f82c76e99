"""What a policy is: a prefetcher, an evictor and the choices that a driver must know."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from policies.types import Batch, Float, Found, Future, Gate, History, Int, ModelShape, Prefetch, Search

CopyKey: TypeAlias = Callable[[int, int, float, int], float]  # (layer, expert, weight, distance in layers)


def items(array: NDArray[np.float64]) -> "memoryview[float]":
    """The items of an array, flat: single ones are read and written much faster here than through numpy."""
    return cast("memoryview[float]", array.reshape(-1).data)


class Prefetcher:
    """Says which experts should be on their way; as it stands it prefetches nothing.

    It sees only what a real run would show it at that moment. Oracles ask for the future in `requires`.
    """

    requires: frozenset[str] = frozenset()  # of {"embedding", "lookahead", "future"}
    block = 0  # iterations that `predict_block` takes at once; 0: it is not offered
    note = ""  # what a reader of the results must know of this run

    def start(
        self, model: ModelShape, history: History | None, future: Future | None, rng: np.random.Generator
    ) -> None:
        """Train on the history, fill the store; called once before the first iteration."""

    def on_request_start(self, request: int) -> None:
        """A request begins."""

    def on_request_end(self, request: int) -> None:
        """A request has its last token."""

    def on_batch(self, batch: Batch) -> Iterable[Prefetch | Search]:
        """An iteration begins: its tokens and embeddings are known, no layer has run."""
        return ()

    def on_layer(self, batch: Batch, layer: int) -> Iterable[Prefetch | Search]:
        """A layer begins, before its attention."""
        return ()

    def on_gate(self, batch: Batch, gate: Gate) -> Iterable[Prefetch | Search]:
        """The router of a layer has spoken."""
        return ()

    def search(self, search: Search) -> Found:
        """Answer a search on the state at the moment when it was issued."""
        raise AssertionError(f"{type(self).__name__} issues searches but does not answer them")

    def on_found(self, batch: Batch, layer_now: int, search: Search, found: Found) -> Iterable[Prefetch]:
        """A search has ended; `layer_now` is the last gated layer, L when its iteration is over."""
        return ()

    def on_batch_end(self, batch: Batch, maps: Float) -> Iterable[Search]:
        """An iteration has ended: learn from `maps` `[T, L, J]`; the updates returned are charged as searches."""
        return ()

    def predict_block(self, batches: Sequence[Batch], maps: Sequence[Float]) -> None:
        """Prepare the answers for iterations to come (`maps`: a `[T, L, J]` each); only a simulator can call this.

        It must equal the callbacks, and an answer may depend only on what its moment has seen.
        """


class Evictor:
    """Keeps a score per expert; the smallest is dropped first. As it stands all are worth the same.

    One that `guards` keeps scores of absent experts too, and they alone decide: a prefetch takes only a victim that is
    scored below the expert itself, whatever plans hold, and a planned expert that is dropped waits for its copy again.
    Its `patience` is how many layers a prefetch waits for a better victim.
    """

    requires: frozenset[str] = frozenset()  # of {"future"}
    distinct = False  # whether any two experts that were used have different scores, so that no ties need breaking
    guards = False
    patience = 0
    scores: NDArray[np.float64]  # [L·J], finite or -inf, kept up to date
    experts: int  # J

    def start(self, model: ModelShape, future: Future | None) -> None:
        """Set up for a model; called once before the first iteration."""
        self.experts = model.experts
        self.scores = np.zeros(model.total_experts)

    def on_batch(self, batch: Batch) -> Iterable[Search] | None:
        """An iteration begins; work returned is charged as searches."""

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> Iterable[Search] | None:
        """An (iteration, layer) event demands these experts; work returned is charged as searches."""

    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """A prefetched expert has arrived; one that is demanded was `touched` already."""

    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        """An expert has been dropped."""

    def foreseen(self, fetched: int, occupants: Int) -> Float:
        """Scores `[slots]` of a GPU's occupants as they will be when `fetched` is needed; asked only if it guards."""
        raise AssertionError(f"{type(self).__name__} guards but does not foresee")

    def believe(self, layer: int, probs: Float) -> None:
        """A prediction `[J]` for a layer was made; it replaces the one before."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A prefetcher, an evictor and the choices that a driver must know.

    `copy_key` gives the order of the prefetches that wait for a link: the largest key goes first, of equal ones that
    for the nearer layer, then the lower expert. It is asked anew for each of them whenever a copy is chosen.
    """

    prefetcher: Prefetcher
    evictor: Evictor
    blocking_prediction: bool = False  # experts are computed only when the searches issued so far have ended
    blocking_prefetch: bool = False  # a layer starts only when all that is planned for it has arrived
    compute_on_arrival: bool = True  # experts are computed as they arrive, not when all have
    chunk_bytes: int | None = None  # a copy can be pre-empted between chunks; None: one chunk per expert
    whole_demands: bool = False  # of a demanded expert, all that is missing moves in one piece in spite of chunks
    copy_key: CopyKey | None = None  # None: weight / distance (eq. 10)
    refused_blocks: bool = False  # while the most urgent prefetch finds no slot, no other one is tried
    preloaded: bool = False  # every expert has a slot and is there from the start

    @property
    def requires(self) -> frozenset[str]:
        """What the policy needs to be told: of {"embedding", "lookahead", "future"}."""
        return self.prefetcher.requires | self.evictor.requires
