"""What a policy is: a prefetcher, an evictor and the choices that a driver must know."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from policies.types import Batch, ChunkBytes, Float, Found, Gate, Int, Iteration, Prefetch, Search, Setup

Setting: TypeAlias = str | int | float | bool | None
CopyKey: TypeAlias = Callable[[int, int, float, int], float]  # (layer, expert, weight, distance in layers)


def items(array: NDArray[np.float64]) -> "memoryview[float]":
    """The items of an array, flat: single ones are read and written much faster here than through numpy."""
    return cast("memoryview[float]", array.reshape(-1).data)


class Prefetcher:
    """Says which experts should be on their way; as it stands it prefetches nothing.

    It sees only what a real run would show it at that moment. Oracles ask for the future in `requires`. When each hook
    is called, what is known then and what may be returned is written down in docs/policies.md.
    """

    requires: frozenset[str] = frozenset()  # of "embedding", "future" and "lookahead_1", "lookahead_2", …
    block = 0  # iterations that `predict_block` takes at once; 0: it is not offered
    note = ""  # what a reader of the results must know of this run

    def start(self, setup: Setup) -> None:
        """Train on the history, fill the store; called once before the first iteration.

        Where `setup.replayed`, `replay` will be called in place of `predict_block`, and nothing need be learned.
        """

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
        raise NotImplementedError(f"{type(self).__name__} issues searches but does not answer them")

    def on_found(self, batch: Batch, layer_now: int, search: Search, found: Found) -> Iterable[Prefetch]:
        """A search has ended; `layer_now` is the last gated layer, L when its iteration is over.

        The cache stands still meanwhile: this is the place to change what the evictor reads too.
        """
        return ()

    def on_batch_end(self, batch: Batch, maps: Float, experts: Int) -> Iterable[Search]:
        """An iteration has ended: learn from its gates `maps` `[T, L, J]` and the `experts` `[T, L, K]` it executed.

        The updates returned are charged as searches; nothing answers them.
        """
        return ()

    def overridden(self) -> set[str]:
        """The names of the hooks that it has of its own; a driver need not call the others."""
        hooks = {name: hook for name, hook in vars(Prefetcher).items() if name.startswith("on_")}
        return {name for name, hook in hooks.items() if getattr(getattr(self, name), "__func__", None) is not hook}

    def predict_block(self, iterations: Sequence[Iteration]) -> None:
        """Prepare the answers for iterations to come; only a simulator can call this.

        The answers must be those of the callbacks but for float32 rounding, which may decide between near-equal scores;
        however iterations are grouped into blocks, they must be the same to the last bit. An answer may depend only on
        what its moment has seen.
        """

    @property
    def shares_predictions(self) -> bool:
        """Whether a run may record its predictions for others, by `predictions`, and they may `replay` them.

        It may if predictions depend on nothing but the prefetcher's settings, the model's shape, the history, the
        iterations and the generator: not on time, the cache, the evictor or the machine.
        """
        return False

    def prediction_settings(self) -> dict[str, Setting]:
        """The settings on which its predictions may depend: every argument of its constructor."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def predictions(self) -> dict[str, NDArray[Any]]:
        """Those of the block that was predicted last, for a run that replays them.

        `sizes` `[N, S]`, `experts`, `weights` and `beliefs` as `packed_plans` in `policies/prediction/plan_arrays.py`
        makes them, and other arrays with a row per iteration.
        """
        raise NotImplementedError(f"{type(self).__name__} does not share its predictions")

    def replay(self, iterations: Sequence[Iteration], predictions: Mapping[str, NDArray[Any]]) -> None:
        """Take what `predictions` gave in another run for the same iterations; called in place of `predict_block`."""
        raise NotImplementedError(f"{type(self).__name__} does not share its predictions")


class Evictor:
    """Keeps a score per expert; the smallest is dropped first. As it stands all are worth the same.

    If it `guards`, scores also cover absent experts. A prefetch may evict only an expert with a lower score, even a
    planned one, which is then queued again. If `patience` is not 0, a prefetch whose best victim is in use waits for it
    once all experts of the running layer have arrived.
    """

    requires: frozenset[str] = frozenset()  # of "embedding", "future" and "lookahead_1", "lookahead_2", …
    distinct = False  # whether any two experts that were used have different scores, so that no ties need breaking
    steady = False  # whether scores change in `touched` alone: victims are chosen several at a time; only for our own
    guards = False
    patience = 0
    scores: NDArray[np.float64]  # [L·J], finite or -inf, kept up to date
    experts: int  # J

    def start(self, setup: Setup) -> None:
        """Set up for a model; called once before the first iteration, after the prefetcher's."""
        self.experts = setup.model.experts
        self.scores = np.zeros(setup.model.total_experts)

    def on_batch(self, batch: Batch) -> Iterable[Search] | None:
        """An iteration begins. Searches that are returned are charged, as the prefetcher's updates are."""
        return None

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> Iterable[Search] | None:
        """An (iteration, layer) event demands these experts. Searches that are returned are charged."""
        return None

    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """A prefetched expert has arrived. One that is copied on demand was `touched` already and is not announced."""

    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        """An expert has been dropped."""

    def foreseen(self, fetched: int, occupants: Int) -> Float:
        """Scores `[slots]` of a GPU's occupants as they will be when `fetched` is needed; asked only if it guards."""
        raise NotImplementedError(f"{type(self).__name__} guards but does not foresee")

    def believe(self, layer: int, probs: Float) -> None:
        """A prediction `[J]` for a layer was made; it replaces the one before."""

    @property
    def reads_beliefs(self) -> bool:
        """Whether `believe` does anything; if not, it need not be called."""
        return type(self).believe is not Evictor.believe


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
    chunk_bytes: ChunkBytes | None = None  # a prefetch can be pre-empted between chunks; None: those of the run
    copy_key: CopyKey | None = None  # None: weight / distance (eq. 10)
    refused_blocks: bool = False  # while the most urgent prefetch finds no slot, no other one is tried
    preloaded: bool = False  # every expert has a slot and is there from the start

    def start(self, setup: Setup) -> None:
        """Set up the prefetcher and then the evictor, which may share state; called once before the first iteration."""
        self.prefetcher.start(setup)
        self.evictor.start(setup)

    def without_waiting(self) -> "Policy":
        """The same policy, never blocking: for runs whose prefetches are not carried out."""
        other = copy(self)  # of the same class: its constructor may take something else than the fields
        object.__setattr__(other, "blocking_prediction", False)
        object.__setattr__(other, "blocking_prefetch", False)
        return other

    @property
    def requires(self) -> frozenset[str]:
        """What the policy needs to know: of "embedding", "future", "lookahead_1", "lookahead_2", …"""
        return self.prefetcher.requires | self.evictor.requires
