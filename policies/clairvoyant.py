"""The policy that knows all that will be demanded: what the others are measured against."""

from collections.abc import Iterable, Sequence

import numpy as np

from policies.base import Policy, Prefetcher
from policies.next_use import NextUse, Uses
from policies.oracle import Belady
from policies.types import Batch, Float, Future, Gate, History, Int, ModelShape, Prefetch

LAYERS_OF_A_COPY = 16  # that it takes for one layer of patience
LONGEST_WAIT = 4  # layers
_EXPONENTS = 1022  # of normal floats, below 1


class NextUsePrefetcher(Prefetcher):
    """Fetches what is absent in the order of its next use, across iterations and requests.

    The next use of an expert is `distance + n · L` layers away, `distance` (1 … L) to its layer's next turn and n turns
    after that. Copies go by weight / distance (eq. 10), so weights ε^n with a power of two ε < 1/L give just that
    order, and only the layer that was gated has to be planned anew. Uses beyond the smallest float are not planned:
    204 iterations ahead at 24 layers, 127 at 128.
    """

    requires = frozenset({"future"})

    def __init__(self, next_use: NextUse) -> None:
        self._next = next_use

    def start(
        self, model: ModelShape, history: History | None, future: Future | None, rng: np.random.Generator
    ) -> None:
        """Be told."""
        self._next.start(model, future)
        self._shape = model.layers, model.experts
        bits = model.layers.bit_length()
        self._horizon = _EXPONENTS // bits
        self._weight = [2.0 ** -(bits * turns) for turns in range(self._horizon)]

    def on_batch(self, batch: Batch) -> Iterable[Prefetch]:
        """Plan all layers for this iteration, and prepare the plans for those after it."""
        self._next.advance(batch)
        if not self._next.exact:
            self.note = "in a batch the future is an estimate: a policy may do better than clairvoyant"
        later = self._next.later.reshape(self._shape)
        self._order = (-later).argsort(axis=1, kind="stable").tolist()  # the last first: plans are kept in rising order
        self._turns = later.tolist()
        now = self._next.now.reshape(self._shape)
        turns, order = now.tolist(), (-now).argsort(axis=1, kind="stable").tolist()
        return [self._plan(layer, order[layer], turns[layer], 0) for layer in range(self._shape[0])]

    def on_gate(self, batch: Batch, gate: Gate) -> Iterable[Prefetch]:
        """Plan the layer for its next turns."""
        return (self._plan(gate.layer, self._order[gate.layer], self._turns[gate.layer], 1),)

    def _plan(self, layer: int, order: list[int], uses: list[float], first: int) -> Prefetch:
        end = first + self._horizon
        experts = [expert for expert in order if uses[expert] < end]
        return Prefetch(layer, experts, [self._weight[int(uses[expert]) - first] for expert in experts])


class FarthestNextUse(Belady):
    """Belady's rule that refuses a prefetch a victim which is needed before what is fetched.

    The farthest next use of this moment ("Aggressive") loads more than Belady's rule would: an expert that is about to
    be used may be the better victim afterwards. Where copies take much longer than layers it pays to wait for it
    ("Delay"): the victim is the farthest next use after the next `patience` layers, and a prefetch waits until that one
    has been used. Best was, with gpt-oss-20b and the pocket model, a wait of a sixteenth of a copy, and of no
    more layers than four or than half the slots. Both times are measured during the run, each as the shortest seen.
    """

    guards = True

    def __init__(self, next_use: NextUse) -> None:
        self._next = next_use

    def start(self, model: ModelShape, future: Future | None) -> None:
        """Be told; no time has been measured."""
        super().start(model, future)
        self._begun: dict[int, float] = {}  # prefetches under way
        self._fetched = -1
        self._gated_s = self._layer_s = self._copy_s = np.inf
        self._awaited_s = -np.inf

    def on_batch(self, batch: Batch) -> None:
        """Score each expert by its next use."""
        super().on_batch(batch)
        self._layer_now = -1
        self._ahead: dict[int, Uses] = {}  # scores after so many iterations
        if 0 < self._layer_s < np.inf and self._copy_s < np.inf:
            self.patience = min(round(self._copy_s / self._layer_s / LAYERS_OF_A_COPY), LONGEST_WAIT)

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """This iteration's use has happened."""
        super().touched(layer, experts, now_s)
        if layer:
            self._layer_s = min(self._layer_s, now_s - self._gated_s)
        self._layer_now, self._gated_s = layer, now_s
        self._copy_s = min(self._copy_s, now_s - self._awaited_s)  # the layer before has waited for that copy
        base = layer * self.experts
        begun = [self._begun.pop(base + expert) for expert in experts if base + expert in self._begun]
        self._awaited_s = max(begun, default=-np.inf)

    def foreseen(self, fetched: int, occupants: Int) -> Float:
        """What is used while the prefetch may wait is scored by the use after that."""
        self._fetched = fetched
        scores: Float = self.scores[occupants]
        wait = min(self.patience, len(occupants) // 2)
        if not wait:
            return scores
        end = min(self._layer_now + wait, -self.scores[fetched] - 1, self._next.left * self._layers - 1)
        near = (scores >= -end).nonzero()[0] if end > self._layer_now else ()
        if len(near):
            iteration, layer = divmod(int(end), self._layers)
            some = occupants[near]
            passed = self._layer[some] <= layer
            scores[near] = np.where(passed, self._after(iteration + 1)[some], self._after(iteration)[some])
        return scores

    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        """A copy begins; if it is the prefetch that was asked for last, note when."""
        if self._fetched >= 0:
            self._begun[self._fetched] = now_s
            self._fetched = -1

    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """A prefetch has ended."""
        begun_s = self._begun.pop(layer * self.experts + expert, None)
        if begun_s is not None:
            self._copy_s = min(self._copy_s, now_s - begun_s)

    def _after(self, iterations: int) -> Uses:
        scores = self._ahead.get(iterations)
        if scores is None:
            scores = self._ahead[iterations] = -(self._next.after(iterations) * self._layers + self._layer)
        return scores


def clairvoyant() -> Policy:
    """Know every demand to come: fetch in the order of next use, drop the farthest, never one needed sooner.

    The rules "Aggressive" of Cao, Felten, Karlin and Li (SIGMETRICS 1995) and "Delay" of its successors: not optimal,
    but near. `tests/test_clairvoyant.py` compares it with brute force, `sim.bounds` with what no policy can pass.
    """
    next_use = NextUse()
    return Policy(prefetcher=NextUsePrefetcher(next_use), evictor=FarthestNextUse(next_use))
