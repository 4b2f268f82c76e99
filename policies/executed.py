"""Which experts tokens execute, as counts and masks. In recordings, -1 stands for no expert."""

import numpy as np
from numpy.typing import DTypeLike, NDArray

from policies.types import Bool, Float, Int


def tokens_by_expert(executed: Int, experts: int) -> NDArray[np.int64]:
    """`[L, J]` number of tokens that execute each expert, from `[N, L, K]`."""
    layers = executed.shape[1]
    numbers = executed + (np.arange(layers)[:, None] * (experts + 1) + 1)  # the first of each layer is -1
    counts: NDArray[np.int64] = np.bincount(numbers.ravel(), minlength=layers * (experts + 1)).reshape(layers, -1)
    return counts[:, 1:]


def demands_of(executed: Int, iteration: Int, experts: int) -> Bool:
    """`[I, L, J]` which experts each iteration executes, from `[N, L, K]` and the iteration of each token, from 0."""
    layers = executed.shape[1]
    demanded = np.zeros((int(iteration[-1]) + 1, layers, experts + 1), bool)  # the last of each layer is -1
    demanded[iteration[:, None, None], np.arange(layers)[:, None], executed] = True
    return demanded[:, :, :-1]


def scattered(values: Float | float, executed: Int, experts: int, dtype: DTypeLike) -> Float:
    """`[N, L, J]` the values `[N, L, K]` of the executed experts `[N, L, K]`, and 0 of all others."""
    found = np.zeros((*executed.shape[:2], experts + 1), dtype)  # the last one is for -1
    np.put_along_axis(found, executed, values, axis=2)
    return found[:, :, :-1]
