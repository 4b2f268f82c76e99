"""Tables of sweeps: simulated on a small trace, or made by hand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import UserError
from sim import CacheSize, Scenario, simulate
from sim.content_hash import RunKeys
from sim.inputs import Resolver
from sim.results.result import Result
from sim.sweeps.sweep import Sweep
from sim.trace_naturalness import trace_columns

REFERENCES = {"no_offload_tpot_s_mean": "no-offload"}
PERFECT = "perfect-prefetch,prefetch_distance=3+belady"
PARTS = {"perfect_prefetch_tpot_s_mean": "perfect-prefetch+lru", "belady_tpot_s_mean": "belady"}


def simulated_sweep(
    trace: Path,
    *,
    policies: Sequence[str] = ("lru", "map-ts", "belady"),
    shares: Sequence[float] = (0.25, 0.5),
    batch_sizes: Sequence[int] = (1,),
    seeds: Sequence[int] = (0, 1, 2),
    parts: bool = False,
    **base: Any,
) -> Sweep:
    """A grid over policy, cache, batch and seed; the runs of `parts` are made for on-demand policies."""
    rows = []
    made = _made_once()
    axes = ["policy", "cache.share", "seed"] + ["batch_size"] * (len(batch_sizes) > 1)
    for share in shares:
        for batch_size in batch_sizes:
            for policy in policies:
                for seed in seeds:
                    scenario = Scenario(
                        trace, policy=policy, cache=CacheSize(share=share), batch_size=batch_size, seed=seed, **base
                    )
                    rows.append({"cache.share": share, **_row(scenario, PARTS if parts else {}, made)})
    frame = pd.DataFrame(rows)
    return Sweep(frame=frame[[*axes, *frame.columns.difference(axes, sort=False)]], axes=tuple(axes), experiment={})


def _made_once() -> Callable[[Scenario], Result]:
    """Simulates; what several scenarios share is read once, and a reference of several rows is run once."""
    resolver, keys = Resolver(), RunKeys()
    found: dict[Scenario, Result] = {}

    def made(scenario: Scenario) -> Result:
        if scenario not in found:
            found[scenario] = simulate(scenario, resolver.resolve(scenario), keys=keys)
        return found[scenario]

    return made


def _row(scenario: Scenario, parts: Mapping[str, str], made: Callable[[Scenario], Result]) -> dict[str, Any]:
    row: dict[str, Any] = {"policy": scenario.policy, "seed": scenario.seed, "batch_size": scenario.batch_size}
    try:
        result = made(scenario)
        others = {
            column: made(replace(scenario, policy=policy)).summary["tpot_s_mean"]
            for column, policy in {**REFERENCES, **parts}.items()
        }
        know_all = [made(replace(scenario, policy=policy)).summary for policy in ("clairvoyant", PERFECT)]
        best = min(know_all, key=lambda summary: summary["tpot_s_mean"])
        others |= {"best_known_tpot_s_mean": best["tpot_s_mean"], "best_known": best["policy"]}
    except UserError as error:
        return row | {"status": "refused", "reason": str(error), "key": None}
    return row | {"status": "done", "reason": None, "key": result.content_hash} | figures_of(result) | others


def figures_of(result: Result) -> dict[str, Any]:
    """Summary and provenance of a run, as columns."""
    said = result.provenance
    return dict(result.summary) | {
        "trace": said["trace"]["name"],
        **trace_columns(said["trace"]),
        "traced_model": said["trace"]["model"],
        "model": said["model"]["name"],
        "machine_described": said["machine"]["described"],
        "cache_experts": said["cache_experts"],
        "total_experts": said["model"]["layers"] * said["model"]["experts"],
        "expert_bytes": said["expert_bytes"],
    }


SAID = {
    "simulated": True,
    "fits": True,
    "preloaded": False,
    "prediction_charged": True,
    "note": None,
    "trace": "hand.trace",
    "trace_kind": "captured",
    "trace_warning": None,
    "traced_model": "hand-made",
    "model": "hand-made",
    "machine_described": "bench (1 × GPU)",
    "cache_experts": 8,
    "total_experts": 32,
    "expert_bytes": 1_000_000,
    "expert_memory_bytes": 8_000_000,
    "bytes_per_token": 1e6,
}


def hand_made(rows: Sequence[Mapping[str, Any]], *axes: str) -> Sweep:
    """A sweep of these rows, done where they do not say otherwise, with round figures for what they leave out."""
    full = []
    for row in rows:
        status = row.get("status", "done")
        said = SAID if status == "done" else {}
        full.append({"policy": "lru", "seed": 0, "status": status, "reason": None, "key": None} | said | dict(row))
    columns = dict.fromkeys([*axes, "policy", "seed"])
    frame = pd.DataFrame(full)
    return Sweep(
        frame=frame[[*columns, *(name for name in frame.columns if name not in columns)]], axes=axes, experiment={}
    )
