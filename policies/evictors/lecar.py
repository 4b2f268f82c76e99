"""LeCaR: recency against frequency, settled by regret while it runs.

That is the question of the paper's figure 14b. ARC follows the same idea, but its lists have sizes in proportion to the
cache, which an evictor that serves several GPUs does not know.
"""

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from common.errors import UserError
from policies.base import Evictor
from policies.types import Setup


class LeCaR(Evictor):
    """Let recency and frequency vote, and trust less the one that dropped what is demanded now.

    Vietri et al.: Driving cache replacement with ML-based LeCaR (HotStorage 2018). A demand for what one of them has
    dropped multiplies the weight of the other by exp(`learning_rate` · r), where r falls with the time since the drop.

        what                        the paper and its authors' code     ours
        ----                        -------------------------------     ----
        who drops next              drawn by the weights                dealt in proportion to the weights
        time in r = d^t             requests                            drops
        d                           0.005^(1 / slots)                   0.005^(1 / experts), which forgets later
        what was dropped            as many per rule as there are       all are remembered until they come back
                                    slots, the oldest is forgotten
        uses are counted            in the cache and those lists        since the start
        a demand                    one page                            the experts of an event at once; none of them is
                                                                        dropped, nor what a nearer plan holds
        equal frequencies           by number                           the least recently used goes
        a victim that both name     paper: blamed on the rule drawn;    blamed on the rule whose turn it was
                                    code: on neither
        a weight                    paper: up to 1; code: up to 0.99    from 0.01 to 0.99
        a prefetch that arrives     –                                   is a use, and no regret
        several GPUs                –                                   share weights, turns and memory
    """

    def __init__(self, *, learning_rate: float = 0.45) -> None:
        self.learning_rate = learning_rate

    @override
    def start(self, setup: Setup) -> None:
        """Both are trusted alike."""
        model = setup.model
        if not 0 <= self.learning_rate < np.inf:
            raise UserError(f"lecar: learning_rate {self.learning_rate} is not a number from 0 on")
        super().start(setup)
        self._recency = self.scores
        self._frequency = np.zeros(model.total_experts)
        self._discount = 0.005 ** (1 / model.total_experts)
        self._share = 0.5  # the weight of frequency, of 1
        self._dealt = 0.0
        self._uses = self._drops = 0
        self._dropped: dict[int, tuple[int, bool]] = {}  # when, and whether by frequency

    @override
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

    @override
    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """A prefetch counts as a use of this moment; nobody regrets it."""
        x = layer * self.experts + expert
        self._uses += 1
        self._recency[x] = self._uses
        self._frequency[x] += 1
        self._dropped.pop(x, None)

    @override
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
