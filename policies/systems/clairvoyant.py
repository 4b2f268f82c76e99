"""The `clairvoyant` policy: it knows all future demand and applies a strong heuristic. It is not a bound."""

from collections.abc import Iterable

from typing_extensions import override

from policies.base import Policy, Prefetcher
from policies.evictors.farthest_next_use import FarthestNextUse
from policies.prediction.next_use import NextUse
from policies.types import Batch, ChunkBytes, Gate, Prefetch, Setup

_EXPONENTS = 1022  # of normal floats, below 1


class NextUsePrefetcher(Prefetcher):
    """Fetch absent experts in the order of their next use, across iterations and requests.

    The next use of an expert is `distance + n · L` layers away: `distance` (1 … L) to its layer's next turn, and n more
    turns after that. Copies go by weight / distance (eq. 10), so weights ε^n, with a power of two ε < 1/L, give exactly
    that order, and only the layer just gated has to be planned anew. Uses whose weight would be below the smallest
    normal float are not planned: 204 iterations ahead at 24 layers, 127 at 128.
    """

    requires = frozenset({"future"})

    def __init__(self, next_use: NextUse) -> None:
        self._next = next_use

    @override
    def start(self, setup: Setup) -> None:
        model = setup.model
        self._next.start(setup)
        self._shape = model.layers, model.experts
        self._plans: dict[int, Prefetch] = {}  # by layer, as made when it was last gated
        bits = model.layers.bit_length()
        self._horizon = _EXPONENTS // bits
        self._weight = [2.0 ** -(bits * turns) for turns in range(self._horizon)]

    @override
    def on_batch(self, batch: Batch) -> Iterable[Prefetch]:
        """Plan all layers for this iteration, and prepare the plans for those after it."""
        self._next.advance(batch)
        if not self._next.exact:
            self.note = "in a batch it only estimates the future, so another policy may do better"
        later = self._next.later.reshape(self._shape)
        self._order = (
            (-later).argsort(axis=1, kind="stable").tolist()
        )  # the last use first: plans list weights in rising order
        self._turns = later.tolist()
        if len(self._plans) < self._shape[0] or not self._next.exact:
            now = self._next.now.reshape(self._shape)
            turns, order = now.tolist(), (-now).argsort(axis=1, kind="stable").tolist()
            return [self._plan(layer, order[layer], turns[layer], 0) for layer in range(self._shape[0])]
        return [self._plans[layer] for layer in range(self._shape[0])]  # as they were made in the iteration before

    @override
    def on_gate(self, batch: Batch, gate: Gate) -> Iterable[Prefetch]:
        layer = gate.layer
        self._plans[layer] = self._plan(layer, self._order[layer], self._turns[layer], 1)
        return (self._plans[layer],)

    def _plan(self, layer: int, order: list[int], uses: list[float], first: int) -> Prefetch:
        end = first + self._horizon
        experts = [expert for expert in order if uses[expert] < end]
        return Prefetch(layer, experts, [self._weight[int(uses[expert]) - first] for expert in experts])


def clairvoyant(chunk_bytes: ChunkBytes | None = None) -> Policy:
    """Know all future demand: fetch in the order of next use; evict the one needed last, but
    never to make room for one needed even later.

    Follows the rules "Aggressive" (Cao, Felten, Karlin and Li, SIGMETRICS 1995) and "Delay" (its successors), which are
    not optimal. On one GPU it comes close: `tests/policies/systems/test_clairvoyant.py` compares it with brute force.
    On several GPUs with few slots, or in batches, perfect prefetch at a fixed distance beats it by up to 13 %. Tables
    therefore measure policies against the best known run (`sim.sweeps.reference_runs`). `sim.results.bounds` has the
    bounds that no policy can pass.
    """
    next_use = NextUse()
    return Policy(
        prefetcher=NextUsePrefetcher(next_use),
        evictor=FarthestNextUse(next_use),
        refused_blocks=True,  # a less urgent prefetch may evict even fewer experts
        chunk_bytes=chunk_bytes,
    )
