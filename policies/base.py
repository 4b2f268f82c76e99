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
    """The items of an array, flat: reading and writing single ones is much faster here than through numpy."""
    return cast("memoryview[float]", array.reshape(-1).data)


class Prefetcher:
    """Plans which experts to copy ahead; this base class prefetches nothing.

    It sees only what a real run would show it at that moment. Oracles ask for the future in `requires`.
    docs/policies.md says when each hook is called, what is known then and what it may return.
    """

    requires: frozenset[str] = frozenset()  # of "embedding", "future" and "lookahead_1", "lookahead_2", …
    block = 0  # iterations that `predict_block` takes at once; 0: it is not called
    note = ""  # what a reader of the results must know about this run

    def start(self, setup: Setup) -> None:
        """Train on the history, fill the store; called once before the first iteration.

        If `setup.replayed`, `replay` will be called instead of `predict_block`, and nothing needs to be learned.
        """

    def on_request_start(self, request: int) -> None:
        """A request begins."""

    def on_request_end(self, request: int) -> None:
        """A request has its last token and ends."""

    def on_batch(self, batch: Batch) -> Iterable[Prefetch | Search]:
        """An iteration begins: its tokens and embeddings are known, no layer has run."""
        return ()

    def on_layer(self, batch: Batch, layer: int) -> Iterable[Prefetch | Search]:
        """A layer begins, before its attention."""
        return ()

    def on_gate(self, batch: Batch, gate: Gate) -> Iterable[Prefetch | Search]:
        """The router of a layer has run, and its experts are demanded."""
        return ()

    def search(self, search: Search) -> Found:
        """Answer a search at the moment when it is issued, from what is known then."""
        raise NotImplementedError(f"{type(self).__name__} issues searches but does not answer them")

    def on_found(self, batch: Batch, layer_now: int, search: Search, found: Found) -> Iterable[Prefetch]:
        """A search has ended; `layer_now` is the last gated layer, L when its iteration is over.

        The cache does not change meanwhile, so this is the place to change state that the evictor reads.
        """
        return ()

    def on_batch_end(self, batch: Batch, maps: Float, experts: Int) -> Iterable[Search]:
        """An iteration has ended: learn from its gates `maps` `[T, L, J]` and the `experts` `[T, L, K]` it executed.

        Returned updates are charged like searches, but have no answer.
        """
        return ()

    def overridden(self) -> set[str]:
        """The names of the hooks that it overrides; a driver need not call the others."""
        hooks = {name: hook for name, hook in vars(Prefetcher).items() if name.startswith("on_")}
        return {name for name, hook in hooks.items() if getattr(getattr(self, name), "__func__", None) is not hook}

    def predict_block(self, iterations: Sequence[Iteration]) -> None:
        """Prepare the answers for coming iterations; only a simulator can call this.

        The answers must equal those of the callbacks except for float32 rounding, which may decide between near-equal
        scores. They must not depend on how iterations are grouped into blocks, not even in the last bit. An answer may
        use only what is known at its moment.
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
        """The predictions of the last block, for a run that replays them.

        `sizes` `[N, S]`, `experts`, `weights` and `beliefs` as `packed_plans` in `policies/prediction/plan_arrays.py`
        makes them, and other arrays with a row per iteration.
        """
        raise NotImplementedError(f"{type(self).__name__} does not share its predictions")

    def replay(self, iterations: Sequence[Iteration], predictions: Mapping[str, NDArray[Any]]) -> None:
        """Take what `predictions` returned in another run for these iterations; called instead of `predict_block`."""
        raise NotImplementedError(f"{type(self).__name__} does not share its predictions")


class Evictor:
    """Keeps a score per expert; the smallest is evicted first. This base class scores all experts alike.

    If it `guards`, scores also cover absent experts. A prefetch may evict only an expert with a lower score, even a
    planned one, which is then queued again. If `patience` is not 0, a prefetch whose best victim is in use waits for it
    once all experts of the running layer have arrived.
    """

    requires: frozenset[str] = frozenset()  # of "embedding", "future" and "lookahead_1", "lookahead_2", …
    distinct = False  # whether any two used experts have different scores, so that no ties need breaking
    steady = False  # whether scores change in `touched` alone: several victims are chosen at once; only for our own
    guards = False
    patience = 0
    scores: NDArray[np.float64]  # [L·J], finite or -inf, kept up to date
    experts: int  # J

    def start(self, setup: Setup) -> None:
        """Set up for a model; called once before the first iteration, after the prefetcher's."""
        self.experts = setup.model.experts
        self.scores = np.zeros(setup.model.total_experts)

    def on_batch(self, batch: Batch) -> Iterable[Search] | None:
        """An iteration begins. Returned searches are charged like the prefetcher's updates."""
        return None

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> Iterable[Search] | None:
        """An (iteration, layer) event demands these experts. Returned searches are charged."""
        return None

    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """A prefetched expert has arrived. Experts copied on demand are announced by `touched` alone."""

    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        """An expert has been dropped."""

    def foreseen(self, fetched: int, occupants: Int) -> Float:
        """Scores `[slots]` that a GPU's occupants will have when `fetched` is needed; called only if it guards."""
        raise NotImplementedError(f"{type(self).__name__} guards, so it must override foreseen")

    def believe(self, layer: int, probs: Float) -> None:
        """A new prediction `[J]` for a layer replaces the last one."""

    @property
    def reads_beliefs(self) -> bool:
        """Whether `believe` does anything; if not, it need not be called."""
        return type(self).believe is not Evictor.believe


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A prefetcher, an evictor and the choices that a driver must know.

    `copy_key` orders the prefetches that wait for a link: the largest key goes first; of equal keys the one for the
    nearer layer, then the lower expert. It is called anew for each of them whenever a copy is chosen.
    """

    prefetcher: Prefetcher
    evictor: Evictor
    blocking_prediction: bool = False  # experts are computed only when the searches issued so far have ended
    blocking_prefetch: bool = False  # a layer starts only when everything planned for it has arrived
    compute_on_arrival: bool = True  # experts are computed as they arrive, not when all have
    chunk_bytes: ChunkBytes | None = None  # a demand can pre-empt a prefetch between chunks; None: the run's size
    copy_key: CopyKey | None = None  # None: weight / distance (eq. 10)
    refused_blocks: bool = False  # while the most urgent prefetch finds no slot, no other one is tried
    preloaded: bool = False  # every expert has a slot and is resident from the start

    def start(self, setup: Setup) -> None:
        """Set up the prefetcher and then the evictor, which may share state; called once before the first iteration."""
        self.prefetcher.start(setup)
        self.evictor.start(setup)

    def without_waiting(self) -> "Policy":
        """The same policy, never blocking: for runs that do not carry out prefetches."""
        other = copy(self)  # not a new one: the constructor of a subclass may take other arguments than the fields
        object.__setattr__(other, "blocking_prediction", False)
        object.__setattr__(other, "blocking_prefetch", False)
        return other

    @property
    def requires(self) -> frozenset[str]:
        """What the policy cannot do without: of "embedding", "future", "lookahead_1", "lookahead_2", …"""
        return self.prefetcher.requires | self.evictor.requires
