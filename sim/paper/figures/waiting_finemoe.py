"""FineMoE whose experts wait for its searches: what asynchrony hides (paper, figure 17).

Beside inference, as the paper has them, searches are never on the critical path of a simulation, whatever they take.
With this policy all of them are, so its waiting is the most that they could add.
"""

from dataclasses import replace

from policies.base import Policy
from policies.systems.finemoe import finemoe


def waiting(prefetch_distance: int = 3) -> Policy:
    """FineMoE, synchronous: a layer's experts are computed when all searches and updates so far have ended."""
    return replace(finemoe(prefetch_distance=prefetch_distance), blocking_prediction=True)
