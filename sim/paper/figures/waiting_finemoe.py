"""FineMoE with its searches on the critical path, to measure what asynchrony hides (paper, figure 17).

Normally searches run beside inference, as in the paper, so nothing in a simulation waits for them. With this policy
experts wait for all searches, which gives the most time that searches could add.
"""

from dataclasses import replace

from policies.base import Policy
from policies.systems.finemoe import finemoe


def waiting(prefetch_distance: int = 3) -> Policy:
    """Synchronous FineMoE: a layer's experts start only after all earlier searches and updates have ended."""
    return replace(finemoe(prefetch_distance=prefetch_distance), blocking_prediction=True)
