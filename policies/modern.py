"""Three evictors of today's cache literature: SIEVE, LeCaR and LHD, in this order.

Chosen because each is strong for another reason and needs nothing but scores. SIEVE (lazy promotion, quick demotion)
beats more elaborate algorithms on web traces and resists scans, of which prefetches that were wrong are one. LeCaR
settles recency against frequency, the question of the paper's figure 14b, by regret while it runs. LHD learns at which
age experts are used again, so it can see that the one just used is the last to come round, which recency gets wrong.
Not chosen: ARC and S3-FIFO. Their lists have sizes in proportion to the cache, which an evictor that serves several
GPUs does not know, and LeCaR and SIEVE follow the same two ideas.
"""

from collections.abc import Sequence

import numpy as np

from policies.base import Evictor
from policies.errors import UserError
from policies.types import Batch, Future, ModelShape

_LAP = 2.0**40  # more than there are arrivals
_OLDEST = 512  # iterations; beyond them LHD sees no difference
_RELEARN = 16  # iterations


class Sieve(Evictor):
    """Keep what was used since the hand last passed it; the hand moves from the oldest arrival to the newest.

    Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is simpler than LRU (NSDI 2024). Scores are the order in which the hand
    would drop: first what has not been visited, ahead of the hand and then behind it. What the hand has passed is no
    longer visited. One hand serves all GPUs.
    """

    distinct = True

    def start(self, model: ModelShape, future: Future | None) -> None:
        """Nothing has arrived yet."""
        super().start(model, future)
        self._arrival = np.zeros(model.total_experts)  # number of the arrival
        self._present = np.zeros(model.total_experts, bool)
        self._visited = np.zeros(model.total_experts, bool)
        self._arrivals = self._settled = 0  # all, and those before the running event
        self._hand = 0.0  # arrival of the last one dropped

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """A visit to what is there, the arrival of what is not."""
        self._settled = self._arrivals
        for expert in experts:
            x = layer * self.experts + expert
            if not self._present[x]:
                self._insert(x)
            elif not self._visited[x]:
                self._visited[x] = True
                self.scores[x] += 2 * _LAP

    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """A prefetch arrives; it has not been visited."""
        self._insert(layer * self.experts + expert)

    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        """Move the hand to what was dropped; all that it passed on its way must be visited again."""
        x = layer * self.experts + expert
        here, hand, arrival = self._arrival[x], self._hand, self._arrival
        if self._visited[x]:  # once round
            self._visited[:] = False
        elif here > hand:
            self._visited[(arrival > hand) & (arrival < here)] = False
        else:
            self._visited[(arrival > hand) | (arrival < here)] = False
        self._present[x] = self._visited[x] = False
        newer = self._present & (arrival > here) & (arrival <= self._settled)
        self._hand = here if newer.any() else 0.0  # from the newest on, the hand begins anew at the oldest
        self.scores[:] = arrival + _LAP * (arrival < self._hand) + 2 * _LAP * self._visited

    def _insert(self, x: int) -> None:
        self._arrivals += 1
        self._present[x] = True
        self._visited[x] = False
        self._arrival[x] = self.scores[x] = self._arrivals


class LeCaR(Evictor):
    """Let recency and frequency vote, and trust less the one that dropped what is demanded now.

    Vietri et al.: Driving cache replacement with ML-based LeCaR (HotStorage 2018). A demand for what one of them has
    dropped multiplies the weight of the other by exp(`learning_rate` · r), where r falls with the drops since, to 0.005
    after as many as there are experts. Ours differs: turns are dealt in proportion to the weights instead of drawn.
    """

    def __init__(self, *, learning_rate: float = 0.45) -> None:
        self.learning_rate = learning_rate

    def start(self, model: ModelShape, future: Future | None) -> None:
        """Both are trusted alike."""
        if not 0 <= self.learning_rate < np.inf:
            raise UserError(f"lecar: learning_rate {self.learning_rate} is not a number from 0 on")
        super().start(model, future)
        self._recency = self.scores
        self._frequency = np.zeros(model.total_experts)
        self._discount = 0.005 ** (1 / model.total_experts)
        self._share = 0.5  # the weight of frequency, of 1
        self._dealt = 0.0
        self._uses = self._drops = 0
        self._dropped: dict[int, tuple[int, bool]] = {}  # when, and whether by frequency

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """Count the uses, and regret what was dropped."""
        self._uses += 1
        for expert in experts:
            x = layer * self.experts + expert
            self._recency[x] = self._uses
            self._frequency[x] += 1
            dropped = self._dropped.pop(x, None)
            if dropped is not None:
                self._regret(*dropped)

    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """A prefetch counts as a use of this moment; nobody regrets it."""
        x = layer * self.experts + expert
        self._uses += 1
        self._recency[x] = self._uses
        self._frequency[x] += 1
        self._dropped.pop(x, None)

    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        """Note who dropped it, and whose turn is next."""
        self._drops += 1
        self._dropped[layer * self.experts + expert] = self._drops, self.scores is self._frequency
        self._dealt += self._share
        by_frequency = self._dealt >= 1
        self._dealt -= by_frequency
        self.scores = self._frequency if by_frequency else self._recency

    def _regret(self, when: int, by_frequency: bool) -> None:
        grown = np.exp(self.learning_rate * self._discount ** (self._drops - when))
        frequency, recency = self._share, 1 - self._share
        if by_frequency:
            recency *= grown
        else:
            frequency *= grown
        self._share = min(max(frequency / (frequency + recency), 0.01), 0.99)


class LeastHitDensity(Evictor):
    """Keep what will bring the most hits for the time that it occupies its slot, judged by its age.

    Beckmann, Chen, Cidon: LHD: improving cache hit rate by maximizing hit density (NSDI 2018). Age is the number of
    (iteration, layer) events since the last use, so that each layer comes round at multiples of L; the density at an
    age is hits to come over time to be spent, counted over experts of the same class that grew that old. A class is how
    long ago, in octaves of iterations, an expert had been used at its last use. Every 16 iterations the densities are
    learned anew and what was counted fades by `decay`.
    """

    def __init__(self, *, classes: int = 4, decay: float = 0.9) -> None:
        self.classes = classes
        self.decay = decay

    def start(self, model: ModelShape, future: Future | None) -> None:
        """As long as little is known, the older, the less."""
        if self.classes < 1 or not 0 < self.decay <= 1:
            raise UserError(f"lhd: classes {self.classes} must be at least 1 and decay {self.decay} in 0 … 1")
        super().start(model, future)
        self._layers = model.layers
        self._oldest = _OLDEST * model.layers - 1
        shape = self.classes, self._oldest + 1
        self._hits = np.broadcast_to(1e-3 / np.arange(1, shape[1] + 1), shape).copy()  # at each age
        self._drops = np.zeros(shape)
        self._last = np.zeros(model.total_experts, np.int64)  # event of the last use or arrival
        self._class = np.full(model.total_experts, self.classes - 1)
        self._present = np.zeros(model.total_experts, bool)
        self._event = self._iterations = 0
        self._learn()

    def on_batch(self, batch: Batch) -> None:
        """Learn from the iterations before, now and then."""
        self._iterations += 1
        if self._iterations % _RELEARN:
            return
        self._hits *= self.decay
        self._drops *= self.decay
        self._learn()

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """Count hits by age, and let all grow older by an event."""
        self._event += 1
        for expert in experts:
            x = layer * self.experts + expert
            age = self._age(x)
            if self._present[x]:
                self._hits[self._class[x], age] += 1
            self._class[x] = min((age // self._layers).bit_length(), self.classes) - 1 if age >= self._layers else 0
            self._present[x] = True
            self._last[x] = self._event
        self._score()

    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """A prefetch begins a new life."""
        x = layer * self.experts + expert
        self._present[x] = True
        self._last[x] = self._event
        self.scores[x] = self._density[self._class[x], 0]

    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        """Count the end of a life without a hit."""
        x = layer * self.experts + expert
        self._present[x] = False
        self._drops[self._class[x], self._age(x)] += 1

    def _age(self, x: int) -> int:
        return min(self._event - int(self._last[x]), self._oldest)

    def _learn(self) -> None:
        """Hits to come over time to come, both summed from the oldest age down."""
        hits = self._hits[:, ::-1].cumsum(axis=1)
        lives = hits + self._drops[:, ::-1].cumsum(axis=1)
        self._density = (hits / lives.cumsum(axis=1))[:, ::-1]
        self._score()

    def _score(self) -> None:
        age = np.minimum(self._event - self._last, self._oldest)
        self.scores[:] = self._density[self._class, age]
