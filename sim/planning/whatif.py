"""What-if sweeps: vary each resource of a machine, one at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from sim.axes import Point
from sim.experiment import Experiment
from sim.inputs import Resolver
from sim.planning.resources import Resource, Variation, resources_of, variations
from sim.planning.sensitivity import elasticity, largest_part, parts_of_iteration
from sim.scenario import CacheSize
from sim.sweeps.sweep import Sweep
from sim.sweeps.sweep_columns import plain_rows
from sim.sweeps.sweep_run import DEFAULT_WORKERS, run_sweep
from sim.sweeps.workers import Workers

AXES = ("policy", "resource", "factor")
Row = dict[str, Any]
_Key = tuple[str, tuple[tuple[str, Any], ...]]  # a policy, and the values that replace the scenario's


def what_if(experiment: Experiment, *, store: Path | str, workers: Workers = DEFAULT_WORKERS) -> Sweep:
    """Vary one resource of a scenario at a time, from ½× to 4×, for each policy of an experiment.

    Returns a sweep with a row per policy, resource and factor. A run that is refused is a row with its reason. A
    resource that the machine lacks has only the row at 1×. Additional columns are `at_1x` (the amount of the resource
    at 1×), `count` (of slots or GPUs), `largest_part` of a mean iteration and its share `largest_share`. The row at 1×,
    which is the same run for every resource, has `tpot_elasticity` and `ttft_elasticity`.
    """
    scenarios = experiment.scenarios()
    first, *others = scenarios
    inputs = Resolver().resolve(first, *(other.policy for other in others))
    if first.cache.gb == "max":  # more GPUs share the same slots
        first = replace(first, cache=CacheSize(experts=first.cache.slots(inputs.model, inputs.memory)))
    resources = {resource: variations(resource, first) for resource in resources_of(first, inputs)}
    policies = [scenario.policy for scenario in scenarios]
    points = [each.point for varied in resources.values() for each in varied]
    base = Experiment(scenario=first, grid={"policy": policies} if others else {}, list=points)
    ran = run_sweep(base, store=store, references=(), workers=workers)
    found = _by_point(base, ran)
    rows: list[Row] = []
    for policy in policies:
        for resource, varied in resources.items():
            rows += _with_elasticities([_row(policy, resource, each, found) for each in varied])
    return Sweep(frame=pd.DataFrame(rows), axes=AXES, experiment=ran.experiment)


def _by_point(experiment: Experiment, ran: Sweep) -> Mapping[_Key, Row]:
    rows = plain_rows(ran.frame)
    found = {}
    for run, row in zip(experiment.matrix(), rows, strict=True):
        policy = str(run.point.get("policy", experiment.scenario.policy))
        found[_key(policy, run.point)] = row
    return found


def _key(policy: str, point: Point) -> _Key:
    return policy, tuple((name, value) for name, value in sorted(point.items()) if name != "policy")


def _row(policy: str, resource: Resource, varied: Variation, found: Mapping[_Key, Row]) -> Row:
    """The row of a policy, a resource and a factor."""
    row = {"policy": policy, "resource": resource.name, "factor": varied.factor}
    row |= {"at_1x": resource.at_1x, "count": varied.count}
    ran = found[_key(policy, varied.point)]
    part = largest_part(parts_of_iteration(ran))
    row |= {"largest_part": part[0] if part else None, "largest_share": part[1] if part else None}
    return row | {name: value for name, value in ran.items() if name not in row}


def _with_elasticities(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows of a policy and a resource, with elasticities in the row at 1×."""
    at_1x = {
        f"{time}_elasticity": elasticity({each["factor"]: each.get(f"{time}_s_mean") for each in rows})
        for time in ("tpot", "ttft")
    }
    elsewhere = dict.fromkeys(at_1x)
    return [row | (at_1x if row["factor"] == 1 else elsewhere) for row in rows]
