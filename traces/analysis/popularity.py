"""Popularity of experts, load balance, and overlap of consecutive iterations."""

import numpy as np
import pandas as pd

from policies.types import Bool, Float
from traces.analysis.entropy import entropy_bits
from traces.analysis.iterations import Array, Counts, Iterations, ratio, shares


def overlap(demands: Bool) -> Array:
    """`[I - 1, L]`: share of each iteration's experts that the previous iteration executed too."""
    return ratio((demands[1:] & demands[:-1]).sum(axis=2), demands[1:].sum(axis=2))


def gini(loads: Float | Counts) -> Array:
    """Gini coefficient along the last axis: 0 if all loads are equal, 1 − 1/J if one expert has all of the load."""
    ordered = np.sort(np.asarray(loads, np.float64), axis=-1)
    count = ordered.shape[-1]
    weights = 2 * np.arange(1, count + 1) - count - 1
    return ratio((ordered * weights).sum(axis=-1), count * ordered.sum(axis=-1))


class Popularity:
    """Use of experts summed over requests; memory does not grow with their number."""

    def __init__(self, layers: int, experts: int) -> None:
        self._tokens: Counts = np.zeros((layers, experts), np.int64)
        self._events: Counts = np.zeros((layers, experts), np.int64)
        self._probability = np.zeros((layers, experts))
        self._iterations = 0
        self._shared = np.zeros(layers)  # overlap of a decode iteration with the decode iteration before it
        self._pairs = 0
        self._after_prefill = np.zeros(layers)
        self._prefills = 0

    def add(self, request: Iterations) -> None:
        """Add a request."""
        self._tokens += request.tokens
        self._events += request.demands.sum(axis=0)
        self._probability += request.maps.sum(axis=0)
        self._iterations += len(request)
        found = overlap(request.demands)
        if request.prefill and len(found):  # counted apart: a prefill of many tokens executes nearly all experts
            self._after_prefill += found[0]
            self._prefills += 1
            found = found[1:]
        self._shared += found.sum(axis=0)
        self._pairs += len(found)

    def overlaps(self) -> pd.DataFrame:
        """One row per layer: mean overlap of consecutive decode iterations, and of the first one with the prefill."""
        return pd.DataFrame(
            {
                "layer": np.arange(len(self._tokens)),
                "overlap": ratio(self._shared, self._pairs),
                "overlap_after_prefill": ratio(self._after_prefill, self._prefills),
                "experts_per_iteration": ratio(self._events.sum(axis=1), self._iterations),
                "pairs": self._pairs,
            }
        )

    def experts(self) -> pd.DataFrame:
        """One row per layer and expert: tokens and iterations that executed it, and its mean probability."""
        layers, experts = self._tokens.shape
        return pd.DataFrame(
            {
                "layer": np.repeat(np.arange(layers), experts),
                "expert": np.tile(np.arange(experts), layers),
                "tokens": self._tokens.ravel(),
                "token_share": shares(self._tokens).ravel(),
                "iterations": self._events.ravel(),
                "mean_probability": ratio(self._probability, self._iterations).ravel(),
            }
        )

    def balance(self) -> pd.DataFrame:
        """One row per layer: how unevenly its experts are loaded, by tokens."""
        load = shares(self._tokens)
        mean = 1 / load.shape[1]
        return pd.DataFrame(
            {
                "layer": np.arange(len(load)),
                "max_over_mean": load.max(axis=1) / mean,
                "min_over_mean": load.min(axis=1) / mean,
                "coefficient_of_variation": load.std(axis=1) / mean,
                "gini": gini(load),
                "popularity_bits": entropy_bits(load),
                "unused_experts": (self._tokens == 0).sum(axis=1),
            }
        )
