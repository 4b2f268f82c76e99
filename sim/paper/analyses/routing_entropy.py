"""Entropy of routing, coarse and fine, for figures 3a to 3c.

The FineMoE authors released the code behind these figures (`demo/process_data.py`). It counts the experts that tokens
execute, treats each prompt token as an iteration, and uses natural logarithms. The text of the paper describes the
router's probabilities instead. Both readings are computed:

| reading | coarse | fine |
|---|---|---|
| executed | counts of a request's tokens | one token: K experts, so ln K by construction |
| gates | mean of the expert maps of a request's iterations | the expert map of one iteration |

Entropies are in nats and per layer.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from policies.executed import demands_of
from policies.types import Float, RecordedRequest
from sim.paper.analyses.sampled_prompts import sampled
from traces.analysis.entropy import entropy_bits, heat_map, running_entropy_bits
from traces.analysis.iterations import Array, Iterations, iterations_of, shares
from traces.format.reader import Trace

Reading = Literal["executed", "gates"]

# The readings of figure 3c: what is aggregated, and from which iteration on.
RELEASED = "executed, from the first prompt token"
DECODED = "executed, from the first decode step"
GATES = "gates, from the first decode step"
RANDOM = "experts drawn at random"


def nats(probabilities: Float) -> Array:
    """Entropy along the last axis."""
    found: Array = entropy_bits(probabilities) * np.log(2)
    return found


def heat_maps(trace: Trace, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The maps of one request: the mean over its iterations (`iteration` null) and three single decode iterations.

    A row per map, layer and expert, with the mean probability and the share of iterations that execute the expert.
    """
    first = sampled(trace, settings)[0]
    return heat_map(iterations_of(trace.read(first), trace.meta.prefill))


def layer_entropies(trace: Trace, settings: Mapping[str, Any]) -> pd.DataFrame:
    """A row per reading, grain and layer: the mean over requests (coarse) or iterations (fine)."""
    sums: dict[tuple[Reading, str], list[Array]] = {}
    for recorded, request in _requests(trace, settings):
        executed = _executed(recorded, trace.shape.experts)
        sums.setdefault(("executed", "coarse"), []).append(nats(shares(request.tokens))[None])
        sums.setdefault(("executed", "fine"), []).append(nats(shares(executed)))
        sums.setdefault(("gates", "coarse"), []).append(nats(request.maps.mean(axis=0))[None])
        sums.setdefault(("gates", "fine"), []).append(nats(request.maps))
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "reading": reading,
                    "grain": grain,
                    "layer": np.arange(trace.shape.layers),
                    "entropy_nats": np.concatenate(values).mean(axis=0),
                    "uniform_nats": np.log(trace.shape.experts),
                    "requests": len(sums["gates", "coarse"]),
                }
            )
            for (reading, grain), values in sums.items()
        ],
        ignore_index=True,
    )


def running_entropies(trace: Trace, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Entropy after 1, 2, … aggregated iterations: a row per reading and count, averaged over requests and layers.

    Ends with the shortest request. `experts drawn at random` is a control: it has the tokens of the released reading,
    but each executes K experts drawn uniformly.
    """
    sums: dict[str, list[Array]] = {}
    rng = np.random.default_rng(settings["seed"])
    shape = trace.shape
    for recorded, request in _requests(trace, settings):
        executed = _executed(recorded, shape.experts)
        decode = recorded.iteration > 0
        drawn = rng.random(executed.shape).argsort(axis=2) < shape.top_k
        added = {
            RELEASED: shares(executed),
            DECODED: shares(executed[decode]),
            GATES: request.maps[request.prefill :],
            RANDOM: shares(drawn.astype(np.float64)),
        }
        for reading, maps in added.items():
            sums.setdefault(reading, []).append((running_entropy_bits(maps) * np.log(2)).mean(axis=1))
    return pd.concat([_mean(reading, values) for reading, values in sums.items()], ignore_index=True)


def _requests(trace: Trace, settings: Mapping[str, Any]) -> Iterator[tuple[RecordedRequest, Iterations]]:
    for recorded in trace.iter(sampled(trace, settings)):
        yield recorded, iterations_of(recorded, trace.meta.prefill)


def _executed(recorded: RecordedRequest, experts: int) -> Array:
    """`[N, L, J]` 1 where a token executes an expert."""
    return demands_of(recorded.experts, np.arange(len(recorded.token)), experts).astype(np.float64)


def _mean(reading: str, values: list[Array]) -> pd.DataFrame:
    shortest = min(map(len, values))
    mean = np.mean([each[:shortest] for each in values], axis=0)
    return pd.DataFrame(
        {
            "reading": reading,
            "iterations": np.arange(1, shortest + 1),
            "entropy_nats": mean,
            "requests": len(values),
        }
    )
