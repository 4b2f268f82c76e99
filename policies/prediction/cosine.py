"""Cosines whose bits do not depend on how many vectors are compared together.

The last bits of a matrix product depend on its shape and on the processor, but iterations are searched in blocks of any
size. So vectors can be put on a grid: rounded to multiples of 1/2^23 (maps) or 1/2^24 (unit embeddings). Their products
and the sums of these then fit into the 53 bits of a float64, and every order of addition gives the same result.
"""

import numpy as np
from numpy.typing import NDArray

from policies.types import Float, Nearest

Single = NDArray[np.float32]
Double = NDArray[np.float64]

MAP_GRID = 2.0**23  # exact while the dot product of two maps stays below 2^7: at most 1 per layer
UNIT_GRID = 2.0**24


def nearest(scores: Float) -> Nearest:
    """The entry with the highest score in each row of `scores` `[R, count]`."""
    index = scores.argmax(axis=1)
    return Nearest(index, scores[np.arange(len(scores)), index])


def unit(vectors: Float) -> Single:
    """`[R, h]` scaled to length one, on the grid; a zero vector stays zero."""
    vectors = vectors.astype(np.float32, copy=False)
    lengths = np.sqrt(np.einsum("rh,rh->r", vectors, vectors))
    lengths[lengths == 0] = 1
    return on_grid(vectors / lengths[:, None], UNIT_GRID).astype(np.float32)


def on_grid(values: Float, grid: float) -> Double:
    """Round the values to multiples of 1 / `grid`."""
    scaled = np.multiply(values, grid, dtype=np.float64)
    np.rint(scaled, out=scaled)
    scaled /= grid
    return scaled


def prefix_norms(exact: Double) -> Double:
    """`[R, L]` the norms of the prefixes of maps `[R, L, J]`."""
    norms: Double = np.sqrt(np.einsum("rlj,rlj->rl", exact, exact).cumsum(axis=1))
    return norms
