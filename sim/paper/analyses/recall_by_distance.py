"""Recall of coarse and fine prediction over the prefetch distance, for figure 4."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from common.threads import one_thread
from sim.forecast.plan_scores import measure, tidy
from sim.forecast.tally import rates
from sim.inputs import routing_of
from sim.scenario import Scenario
from traces.format.reader import Trace

FINE, COARSE = "fine: nearest expert map", "coarse: nearest request's counts"


def recall_by_distance(trace: Trace, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The hit rate of coarse and fine prediction in decode steps; a row per grain and distance.

    Both policies plan all later layers at each gate, so one run gives every distance: at distance d, the plan made d
    layers before counts. `hit_rate_from_1` is the hit rate at distance 1 on the same layers.
    """
    last = trace.shape.layers - 1
    distances = [each for each in settings["distances"] if each <= last]
    plans = {
        FINE: "finemoe,prefetch_distance=1,semantic=false,threshold=top-k,reach=rest",  # map-t for all later layers
        COARSE: f"moe-infinity,prefetch_distance={last}",
    }
    scenario = Scenario(trace.path, policy=plans[FINE], requests=settings["requests"], seed=settings["seed"])
    routing = routing_of(scenario, plans[COARSE])
    rows: list[dict[str, Any]] = []
    for grain, policy in plans.items():
        with one_thread():
            scores = measure(
                policy,
                trace.shape,
                routing.requests,
                leads=sorted({1, *distances}),
                history=routing.history,
                seed=settings["seed"],
            )
        layers = tidy([(policy, scores)], trace.shape)
        decode = layers[~layers["prefill"].astype(bool)]
        nearest = decode[decode["distance"] == 1]
        for distance in distances:
            ahead = decode[(decode["distance"] == distance) & (decode["layer"] >= distance)]
            rows.append(
                {
                    "grain": grain,
                    "distance_layers": distance,
                    "hit_rate": _hit_rate(ahead),
                    "hit_rate_from_1": _hit_rate(nearest[nearest["layer"] >= distance]),
                    "judged_layers": ahead["layer"].nunique(),
                    "executed_experts": int(ahead["executed"].sum()),
                    "random_hit_rate": trace.shape.top_k / trace.shape.experts,
                    "last_distance_layers": last,
                    "policy": policy,
                    "requests": len(routing.requests),
                }
            )
    return pd.DataFrame(rows)


def _hit_rate(layers: pd.DataFrame) -> float:
    counts = layers[["events", "planned_events", "executed", "planned", "hits", "ranked_hits", "lead_sum"]].sum()
    return float(rates(counts.to_frame().T)["recall"].iloc[0])
