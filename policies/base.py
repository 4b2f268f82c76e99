"""What a policy is: a prefetcher, an evictor and four choices; and the tables of named policies and evictors.

A new policy is one class in one file and one line in `NAMED`, a new evictor one line in `EVICTORS`. Packages outside
register their policies through the entry point group `finemoe_lab.policies`. The form is always `module:callable`, and
the callable returns a `Policy`, or an `Evictor`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import cast

import numpy as np
from numpy.typing import NDArray

from policies.errors import UserError, unknown
from policies.spec import called, inside, line_of, outside, parts_of
from policies.types import Batch, Float, Found, Future, Gate, History, Int, ModelShape, Prefetch, Search

NAMED = {
    "belady": "policies.oracle:belady",
    "clairvoyant": "policies.clairvoyant:clairvoyant",
    "deepspeed": "policies.deepspeed:deepspeed",
    "finemoe": "policies.finemoe:finemoe",
    "hit-count": "policies.trackers:hit_count",
    "lfu": "policies.classic:lfu",
    "lru": "policies.classic:lru",
    "map-t": "policies.trackers:map_t",
    "map-ts": "policies.trackers:map_ts",
    "map-ts-delta": "policies.trackers:map_ts_delta",
    "mixtral-offloading": "policies.mixtral_offloading:mixtral_offloading",
    "moe-infinity": "policies.moe_infinity:moe_infinity",
    "no-offload": "policies.classic:no_offload",
    "oracle": "policies.oracle:belady",
    "perfect-prefetch": "policies.oracle:perfect_prefetch",
    "promoe": "policies.promoe:promoe",
    "speculate": "policies.trackers:speculate",
}
EVICTORS = {
    "belady": "policies.oracle:Belady",
    "finemoe": "policies.finemoe:BeliefAndFrequency",
    "lecar": "policies.modern:LeCaR",
    "lfu": "policies.classic:LeastFrequentlyUsed",
    "lhd": "policies.modern:LeastHitDensity",
    "lru": "policies.classic:LeastRecentlyUsed",
    "sieve": "policies.modern:Sieve",
}
PLUG_INS = "finemoe_lab.policies"


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

    def on_batch(self, batch: Batch) -> None:
        """An iteration begins."""

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """An (iteration, layer) event demands these experts."""

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
    """A prefetcher, an evictor and the choices that a driver must know."""

    prefetcher: Prefetcher
    evictor: Evictor
    blocking_prediction: bool = False  # experts are computed only when the searches issued so far have ended
    blocking_prefetch: bool = False  # a layer starts only when all that is planned for it has arrived
    compute_on_arrival: bool = True  # experts are computed as they arrive, not when all have
    chunk_bytes: int | None = None  # a copy can be pre-empted between chunks; None: one chunk per expert
    preloaded: bool = False  # every expert has a slot and is there from the start

    @property
    def requires(self) -> frozenset[str]:
        """What the policy needs to be told: of {"embedding", "lookahead", "future"}."""
        return self.prefetcher.requires | self.evictor.requires


def policy_names() -> list[str]:
    """All names that `make_policy` knows, in alphabetical order."""
    return sorted({*NAMED, *entry_points(group=PLUG_INS).names})


def make_policy(spec: str) -> Policy:
    """A fresh policy from `NAME` or `NAME,setting=value,…`, for example `finemoe,prefetch_distance=6`.

    With `+EVICTOR` behind it, another evictor takes the place of its own: `finemoe,prefetch_distance=6+lhd,classes=8`.
    A name with a colon, `module:callable`, is a policy from outside. An unknown name or setting is a `UserError` that
    offers the nearest.
    """
    part, *others = parts_of(spec)
    name = part.partition(",")[0]
    policy = called(policy_factory(name), "policy", part)
    if not isinstance(policy, Policy):
        raise UserError(f"policy {name}: it returns a {type(policy).__name__}, not a Policy")
    if not others:
        return policy
    if len(others) > 1:
        raise UserError(f"policy {spec!r}: a policy has one evictor, not {len(others)}")
    if policy.preloaded:
        raise UserError(f"policy {spec!r}: {name} keeps every expert, so there is nothing to evict")
    evictor: Evictor = called(evictor_factory(others[0].partition(",")[0]), "evictor", others[0])
    return replace(policy, evictor=evictor)


def policy_factory(name: str) -> Callable[..., object]:
    """What makes the policy of a name, or of `module:callable`."""
    if ":" in name:
        return outside(name)
    if name in NAMED:
        return inside(NAMED[name])
    plug_ins = entry_points(group=PLUG_INS)
    if name not in plug_ins.names:
        raise unknown("policy", name, policy_names())
    try:
        loaded: Callable[..., object] = plug_ins[name].load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"policy {name}: its package cannot be loaded: {line_of(error)}") from error
    return loaded


def evictor_factory(name: str) -> Callable[..., Evictor]:
    """What makes the evictor of a name."""
    if name not in EVICTORS:
        raise unknown("evictor", name, EVICTORS)
    return inside(EVICTORS[name])
