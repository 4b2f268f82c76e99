"""Activation matrices: how often each past request ran each expert, and how similar a running request is to them.

Source: Xue et al., "MoE-Infinity: Activation-Aware Expert Offloading for Efficient MoE Serving", arXiv 2401.14361.
"""

import numpy as np

from policies.prediction.cosine import Single
from policies.types import Int


class ActivationMatrices:
    """Up to `capacity` matrices of past requests, each row a distribution; the least often matched is replaced."""

    def __init__(self, layers: int, experts: int, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self.rows: Single = np.zeros((capacity, layers, experts), np.float32)
        self._columns: Single = np.zeros((layers, experts, capacity), np.float32)  # of unit length, entries innermost
        self._matched = np.zeros(capacity, np.int64)

    def add(self, counts: Single) -> None:
        """Keep the matrix `[L, J]` of a request that has ended."""
        slot = self.count if self.count < self.capacity else int(self._matched.argmin())
        self.count = max(self.count, slot + 1)
        self.rows[slot] = counts / counts.sum(axis=1, keepdims=True)
        self._columns[:, :, slot] = self.rows[slot] / np.linalg.norm(self.rows[slot])
        self._matched[slot] = 0

    def products(self, counts: Single, layer: int | slice = slice(None)) -> Single:
        """`[count]` scalar products of counts, of one layer `[J]` or all `[L, J]`, with each stored matrix."""
        columns = self._columns[layer, :, : self.count].reshape(counts.size, self.count)
        answer: Single = counts.reshape(-1) @ columns
        return answer

    def matched(self, index: Int) -> None:
        """Count a match of each of these matrices."""
        if len(index) == 1:
            self._matched[index] += 1
        else:
            np.add.at(self._matched, index, 1)


class RunningRequest:
    """A running request: its counts of executed experts so far, and their product with each stored matrix."""

    def __init__(self, shape: tuple[int, int], matrices: ActivationMatrices) -> None:
        self.counts: Single = np.zeros(shape, np.float32)
        self.products = matrices.products(self.counts)

    def add(self, layer: int, fresh: Single, matrices: ActivationMatrices) -> None:
        """Add the counts `[J]` of an event."""
        self.counts[layer] += fresh
        self.products += matrices.products(fresh, layer)
