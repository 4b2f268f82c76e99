"""Runs a sweep: computes what the store does not have yet, in parallel processes."""

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from common.progress import bar
from sim.experiment import Experiment, Run
from sim.results.policy_comparison import beside_own_cache, fastest, names_of
from sim.scenario import Scenario
from sim.store.result_store import ResultStore
from sim.store.run_journal import RunJournal
from sim.sweeps.reference_runs import DEFAULT_REFERENCES, Reference, references_named
from sim.sweeps.run_task import RunTask, TaskEnd, Workplace, run_task
from sim.sweeps.sweep import Sweep
from sim.sweeps.sweep_plan import BOUND, PlannedRun, SweepPlan
from sim.sweeps.time_left import TimeLeft
from sim.sweeps.workers import Workers
from sim.trace_naturalness import history_columns, trace_columns

DEFAULT_WORKERS = Workers()
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} runs [{elapsed}{postfix}]"


def run_sweep(
    experiment: Experiment | Path | str,
    *,
    store: Path | str,
    references: Collection[Reference] = DEFAULT_REFERENCES,
    workers: Workers = DEFAULT_WORKERS,
    name: str = "sweep",
) -> Sweep:
    """Execute every run of an experiment that the store does not have, and return all runs as one table.

    An impossible or failed run is a row with its reason. After an interruption, the same call resumes. Progress is
    reported under the given name. Raises a `UserError` if the store cannot be used or the experiment's file is wrong.

    >>> from sim import Experiment, Scenario, run_sweep
    >>> experiment = Experiment(
    ...     scenario=Scenario(small_trace, policy="lru", machine="rtx3090"),
    ...     grid={"policy": ["finemoe", "lru"], "cache.share": [0.25, 0.5], "seed": [0, 1, 2]},
    ... )
    >>> sweep = run_sweep(experiment, store=folder / "store")
    >>> sweep.frame.groupby(["policy", "cache.share"])["tpot_s_mean"].mean().shape
    (4,)
    """
    if not isinstance(experiment, Experiment):
        experiment = Experiment.read(experiment)
    wanted = references_named(",".join(references) or "none")  # refuses unknown names
    opened = ResultStore.open(store)
    plan = SweepPlan.of(experiment, wanted)
    errors = carry_out(plan, opened, workers, name)
    return sweep_of(experiment, plan, opened, errors)


def run_scenarios(
    scenarios: Sequence[Scenario],
    *,
    store: Path | str,
    references: Collection[Reference] = (),
    workers: Workers = DEFAULT_WORKERS,
) -> list[dict[str, Any]]:
    """A row of figures for each scenario, in order, as in a sweep's table; missing runs are computed."""
    opened = ResultStore.open(store)
    plan = SweepPlan.of_runs([Run(point={}, scenario=scenario) for scenario in scenarios], references)
    errors = carry_out(plan, opened, workers)
    return [_row(each, scenario, (), opened, errors) for each, scenario in zip(plan.runs, scenarios, strict=True)]


def carry_out(plan: SweepPlan, store: ResultStore, workers: Workers, name: str = "sweep") -> dict[str, str]:
    """Compute the missing runs and bounds, and return the errors of failed runs, by key."""
    place = Workplace.here(store)
    errors: dict[str, str] = {}
    missing = plan.missing(store)
    if missing:
        store.check_writable()
    runs, bounds = ([task for task in missing if task.bound is bound] for bound in (False, True))
    with _progress(name, missing, store, workers) as ended:
        for phase in (runs, bounds):  # bounds are computed from runs
            for end in workers.each(run_task, [(task, place) for task in phase]):
                ended(end)
                if end.error is not None:
                    errors[end.key] = end.error
    return errors


@contextmanager
def _progress(
    name: str, missing: Sequence[RunTask], store: ResultStore, workers: Workers
) -> Iterator[Callable[[TaskEnd], object]]:
    """A progress bar with the time left, estimated from each policy's finished runs."""
    left = TimeLeft(missing, RunJournal(store).mean_seconds(), workers.processes(len(missing)))
    if not sys.stderr.isatty():
        with bar(name, len(missing), "run") as done:
            yield lambda end: done(1)
        return
    from tqdm import tqdm

    with tqdm(total=len(missing), desc=name, unit="run", leave=False, bar_format=BAR) as drawn:
        drawn.set_postfix_str(left.text())

        def ended(end: TaskEnd) -> None:
            left.ended(end)
            drawn.set_postfix_str(left.text(), refresh=False)
            drawn.update()

        yield ended


def sweep_of(
    experiment: Experiment, plan: SweepPlan, store: ResultStore, errors: Mapping[str, str] | None = None
) -> Sweep:
    """The table of an experiment's stored runs; `errors` are those of this execution, by key."""
    rows = [_row(each, experiment.scenario, experiment.axes, store, errors or {}) for each in plan.runs]
    return Sweep(frame=pd.DataFrame(rows), axes=experiment.axes, experiment=experiment.to_data())


def _row(
    planned: PlannedRun, base: Scenario, axes: Sequence[str], store: ResultStore, errors: Mapping[str, str]
) -> dict[str, Any]:
    run, task = planned.run, planned.task
    row = {name: run.value(name) for name in axes}
    scenario = run.scenario or base
    row |= {"policy": row.get("policy", scenario.policy), "seed": row.get("seed", scenario.seed)}
    if task is None or planned.inputs is None:
        return row | {"status": "refused", "reason": planned.refusal, "key": None}
    row |= {"policy": scenario.policy, "key": task.key}  # with its settings
    figures = store.summary(task.key) or _again(task.key, store)
    if figures is None:
        reason = errors.get(task.key) or store.failure(task.key) or "has not run yet"
        return row | {"status": "failed", "reason": reason}
    found = planned.inputs.provenance(task.scenario)
    model = found["model"]
    columns = {
        **figures,
        "label": task.scenario.name,
        "machine": found["machine"]["name"],
        "trace": found["trace"]["name"],
        **trace_columns(found["trace"]),
        **history_columns(found["history"]),
        "traced_model": found["trace"]["model"],
        "machine_described": found["machine"]["described"],
        "cache_experts": found["cache_experts"],
        "total_experts": model["layers"] * model["experts"],
        "expert_bytes": found["expert_bytes"],
        **_measured_against(figures, planned.references, store),
    }
    return row | {"status": "done", "reason": None} | {name: each for name, each in columns.items() if name not in row}


def _again(key: str, store: ResultStore) -> dict[str, Any] | None:
    """Look again for a run, in case another process was just replacing it."""
    time.sleep(0.1)
    return store.summary(key)


def _measured_against(
    own: Mapping[str, Any], references: Mapping[str, Sequence[RunTask]], store: ResultStore
) -> dict[str, Any]:
    """The columns of a row's reference runs: their TPOT (the least of several), comparisons, and the lower bound."""
    found: dict[str, Any] = {}
    for name in ("no_offload", "best_known", "own_cache", "perfect_prefetch", "belady"):
        figures = fastest(filter(None, (store.summary(task.key) for task in references.get(name, ()))))
        found[f"{name}_tpot_s_mean"] = figures[0]["tpot_s_mean"] if figures else None
        if name == "best_known":
            found[name] = names_of(figures)
        elif name == "own_cache":
            found |= beside_own_cache(own, figures[0] if figures else None)
    found["makespan_lower_bound_s"] = store.bound_s(references[BOUND][0].key) if BOUND in references else None
    return found
