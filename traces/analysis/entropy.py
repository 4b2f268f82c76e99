"""Entropy of expert maps, coarse and fine (paper fig. 3): how uncertain routing is.

*Fine* is the entropy of one iteration's map, averaged over iterations. *Coarse* is the entropy of a request's mean map,
averaged over requests. In bits: 0 if one expert has probability 1, log2(J) if all are equally probable.
"""

import numpy as np
import pandas as pd

from policies.types import Float
from traces.analysis.iterations import Array, Iterations, ratio, shares


def entropy_bits(probabilities: Float) -> Array:
    """Entropy along the last axis, `[…, J]` → `[…]`; zero probabilities contribute nothing."""
    values = np.asarray(probabilities, np.float64)
    logs = np.log2(values, out=np.zeros(values.shape), where=values > 0)
    bits: Array = np.abs(np.vecdot(values, logs))  # never -0
    return bits


def running_entropy_bits(maps: Float) -> Array:
    """`[I, L]`: entropy of the mean of the first 1, 2, …, I maps `[I, L, J]`."""
    return entropy_bits(maps.cumsum(axis=0) / np.arange(1, len(maps) + 1)[:, None, None])


class Entropies:
    """Entropies summed over requests; memory does not grow with their number."""

    def __init__(self, layers: int, experts: int) -> None:
        self._experts = experts
        self._requests = self._iterations = self._decodes = 0
        self._fine = np.zeros(layers)  # over iterations
        self._decode = np.zeros(layers)
        self._coarse = np.zeros(layers)  # over requests, as are the next two
        self._counted = np.zeros(layers)
        self._running = {"decode": _Running(layers)}

    def add(self, request: Iterations) -> None:
        """Add a request."""
        fine = entropy_bits(request.maps)
        self._fine += fine.sum(axis=0)
        self._decode += fine[request.prefill :].sum(axis=0)
        self._iterations += len(request)
        self._decodes += len(request) - request.prefill
        self._coarse += entropy_bits(request.maps.mean(axis=0))
        self._counted += entropy_bits(shares(request.tokens))
        self._requests += 1
        self._running["decode"].add(running_entropy_bits(request.maps[request.prefill :]))
        if request.prefill:
            self._running.setdefault("prefill", _Running(len(self._fine))).add(running_entropy_bits(request.maps))

    def per_layer(self) -> pd.DataFrame:
        """One row per layer: `coarse_bits` of mean maps, `coarse_counts_bits` of the counts of executed experts."""
        return pd.DataFrame(
            {
                "layer": np.arange(len(self._fine)),
                "fine_bits": ratio(self._fine, self._iterations),
                "fine_decode_bits": ratio(self._decode, self._decodes),
                "coarse_bits": ratio(self._coarse, self._requests),
                "coarse_counts_bits": ratio(self._counted, self._requests),
                "uniform_bits": np.log2(self._experts),
            }
        )

    def through_iterations(self) -> pd.DataFrame:
        """One row per number of averaged iterations and layer, with the number of requests that are long enough.

        `since` is the first iteration averaged: `decode`, the first decode step, or `prefill`, whose map is the mean
        over a whole prompt and therefore starts with high entropy.
        """
        return pd.concat([running.table(since) for since, running in self._running.items()], ignore_index=True)


class _Running:
    """Entropy after 1, 2, … iterations, summed over the requests that are long enough."""

    def __init__(self, layers: int) -> None:
        self._bits = np.zeros((0, layers))
        self._requests = np.zeros(0, np.int64)

    def add(self, bits: Array) -> None:
        """Add the running entropies `[I, L]` of one request."""
        longer = max(0, len(bits) - len(self._bits))
        self._bits = np.pad(self._bits, ((0, longer), (0, 0)))
        self._requests = np.pad(self._requests, (0, longer))
        self._bits[: len(bits)] += bits
        self._requests[: len(bits)] += 1

    def table(self, since: str) -> pd.DataFrame:
        count, layers = self._bits.shape
        return pd.DataFrame(
            {
                "since": since,
                "iterations": np.repeat(np.arange(1, count + 1), layers),
                "layer": np.tile(np.arange(layers), count),
                "entropy_bits": (self._bits / self._requests[:, None]).ravel(),
                "requests": np.repeat(self._requests, layers),
            }
        )


def heat_map(request: Iterations) -> pd.DataFrame:
    """Fig. 3a: one request's mean map (`iteration` null) and the maps of its first, middle and last decode iteration.

    One row per map, layer and expert, with the probability and the share of iterations that executed the expert.
    """
    layers, experts = request.maps.shape[1:]
    first = int(request.prefill and len(request) > 1)
    single = sorted({first, (first + len(request) - 1) // 2, len(request) - 1})
    maps = [request.maps.mean(axis=0), *request.maps[single]]
    executed = [request.demands.mean(axis=0), *request.demands[single].astype(np.float64)]
    cells = layers * experts
    return pd.DataFrame(
        {
            "request": request.request,
            "iteration": pd.array(np.repeat([-1, *(request.first + step for step in single)], cells)).astype("Int64"),
            "layer": np.tile(np.repeat(np.arange(layers), experts), len(maps)),
            "expert": np.tile(np.arange(experts), layers * len(maps)),
            "probability": np.concatenate([one.ravel() for one in maps]),
            "executed_share": np.concatenate([one.ravel() for one in executed]),
        }
    ).assign(iteration=lambda frame: frame["iteration"].where(frame["iteration"] >= 0))
