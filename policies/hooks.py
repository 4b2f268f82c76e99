"""The order in which a driver calls the hooks of a prefetcher, the same for simulation, real run and forecast.

    start
    begin_iteration    on_request_start for each request that begins, on_batch
    begin_layer        on_layer
    gated              on_gate
    end_iteration      on_batch_end, on_request_end for each request that ends

`search` answers each search when it is issued; `found` delivers the answer when the search has ended. The expert cache
calls the hooks of the evictor, at each moment before the prefetcher's. docs/policies.md describes every hook.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from policies.base import Policy
from policies.types import Batch, Float, Found, Gate, Int, Nearest, Prefetch, Search

Actions: TypeAlias = Iterable[Prefetch | Search]

_CALLED_BY = {
    "begin_iteration": {"on_request_start", "on_batch"},
    "begin_layer": {"on_layer"},
    "gated": {"on_gate"},
    "end_iteration": {"on_batch_end", "on_request_end"},
}


@dataclass(slots=True)
class SearchScores:
    """How similar the entries are that searches of one kind found (fig. 16a)."""

    searches: int = 0
    total: float = 0.0  # cosine of the entry found, averaged over the rows of each search

    @property
    def mean(self) -> float | None:
        """The mean over all searches; None without any."""
        return self.total / self.searches if self.searches else None


class Hooks:
    """Calls the hooks of a policy's prefetcher.

    `heard` names those of `begin_iteration`, `begin_layer`, `gated` and `end_iteration` that call a hook which the
    prefetcher overrides; a driver may skip the others. `charged` says whether the prefetcher has issued a search or an
    update, so that prediction takes time. `scores` are those of expert-map searches, by kind.
    """

    begin_layer: Callable[[Batch, int], Actions]
    """A layer begins."""
    gated: Callable[[Batch, Gate], Actions]
    """A router has run, and its experts have been demanded."""
    found: Callable[[Batch, int, Search, Found], Iterable[Prefetch]]
    """A search has ended; takes the last gated layer, the search and what it found."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.charged = False
        self.scores = {"semantic": SearchScores(), "trajectory": SearchScores()}
        self._prefetcher = prefetcher = policy.prefetcher
        overridden = prefetcher.overridden()
        self.heard = {method for method, hooks in _CALLED_BY.items() if hooks & overridden}
        # Bound directly, since they are called for each layer.
        self.begin_layer, self.gated, self.found = prefetcher.on_layer, prefetcher.on_gate, prefetcher.on_found

    def begin_iteration(self, batch: Batch, starting: Sequence[int]) -> Actions:
        """An iteration begins, the first of the requests `starting`."""
        for request in starting:
            self._prefetcher.on_request_start(request)
        return self._prefetcher.on_batch(batch)

    def search(self, search: Search) -> Found:
        """What a search finds; called when it is issued."""
        self.charged = True
        found = self._prefetcher.search(search)
        scores = self.scores.get(search.kind)
        if scores is not None and isinstance(found, Nearest):
            scores.searches += 1
            scores.total += found.mean_score()
        return found

    def end_iteration(self, batch: Batch, maps: Float, experts: Int, ending: Sequence[int]) -> list[Search]:
        """An iteration has ended, the last of the requests `ending`; returns the updates to charge."""
        updates = list(self._prefetcher.on_batch_end(batch, maps, experts))
        self.charged |= bool(updates)
        for request in ending:
            self._prefetcher.on_request_end(request)
        return updates
