"""LeCaR: recency against frequency, decided by regret at run time.

Recency or frequency is the question of the paper's figure 14b. ARC follows the same idea, but the sizes of its lists
are in proportion to a cache, while an evictor here serves the caches of several GPUs.
"""

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from common.errors import UserError
from policies.base import Evictor
from policies.types import Setup


class LeCaR(Evictor):
    """Let recency and frequency take turns; trust less the one whose victims are demanded again.

    Vietri et al.: Driving cache replacement with ML-based LeCaR (HotStorage 2018). A demand for an expert that one rule
    evicted multiplies the weight of the other by exp(`learning_rate` · r), where r falls with the time since then.

        what                        the paper and its authors' code     ours
        ----                        -------------------------------     ----
        the rule that evicts next   is drawn by the weights             gets turns in proportion to its weight
        time in r = d^t             requests                            evictions
        d                           0.005^(1 / slots)                   0.005^(1 / experts), which forgets later
        evicted experts             as many per rule as there are       are all remembered until they come back
                                    slots, the oldest is forgotten
        uses are counted            in the cache and those lists        since the start
        a demand                    is for one page                     is for all experts of an event; none of them is
                                                                        evicted, nor is one planned for a nearer layer
        equal frequencies           by number                           the least recently used is evicted
        a victim of both rules      paper: blamed on the rule drawn;    blamed on the rule whose turn it was
                                    code: on neither
        a weight                    paper: up to 1; code: up to 0.99    from 0.01 to 0.99
        a prefetch that arrives     –                                   is a use, without regret
        several GPUs                –                                   share weights, turns and memory
    """

    def __init__(self, *, learning_rate: float = 0.45) -> None:
        self.learning_rate = learning_rate

    @override
    def start(self, setup: Setup) -> None:
        model = setup.model
        if not 0 <= self.learning_rate < np.inf:
            raise UserError(f"lecar: learning_rate: must be finite and at least 0, not {self.learning_rate}")
        super().start(setup)
        self._recency = self.scores
        self._frequency = np.zeros(model.total_experts)
        self._discount = 0.005 ** (1 / model.total_experts)
        self._share = 0.5  # the weight of frequency; that of recency is the rest to 1
        self._due = 0.0  # turns that frequency has not had yet
        self._uses = self._drops = 0
        self._dropped: dict[int, tuple[int, bool]] = {}  # when, and whether by frequency

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """Count the uses, and regret the evictions of these experts."""
        self._uses += 1
        for expert in experts:
            x = layer * self.experts + expert
            self._recency[x] = self._uses
            self._frequency[x] += 1
            dropped = self._dropped.pop(x, None)
            if dropped is not None:
                self._regret(*dropped)

    @override
    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """Count a prefetch as a use, without regret."""
        x = layer * self.experts + expert
        self._uses += 1
        self._recency[x] = self._uses
        self._frequency[x] += 1
        self._dropped.pop(x, None)

    @override
    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        """Note which rule evicted it, and whose turn is next."""
        self._drops += 1
        self._dropped[layer * self.experts + expert] = self._drops, self.scores is self._frequency
        self._due += self._share
        by_frequency = self._due >= 1
        self._due -= by_frequency
        self.scores = self._frequency if by_frequency else self._recency

    def _regret(self, when: int, by_frequency: bool) -> None:
        grown = np.exp(self.learning_rate * self._discount ** (self._drops - when))
        frequency, recency = self._share, 1 - self._share
        if by_frequency:
            recency *= grown
        else:
            frequency *= grown
        self._share = min(max(frequency / (frequency + recency), 0.01), 0.99)
