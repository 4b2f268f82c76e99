"""The reports of `finemoe sim sweep --dry-run` and `--status`: what would run, and the progress."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from common.folding import WIDTH
from common.tables import MISSING, quantity, text_table
from sim.axes import SETTING
from sim.experiment import Experiment, Run
from sim.store.result_store import ResultStore
from sim.store.run_journal import RunJournal
from sim.sweeps.reference_runs import Reference
from sim.sweeps.run_task import RunTask
from sim.sweeps.sweep_plan import SweepPlan
from sim.sweeps.time_left import TimeLeft, duration
from sim.sweeps.time_sample import sampled_seconds
from sim.sweeps.workers import Workers

MOST_ROWS = 200  # rows of the matrix that are printed


def dry_run_report(
    experiment: Experiment, store: Path, wanted: Collection[Reference], workers: Workers
) -> tuple[str, bool]:
    """The matrix with the state of each run, the time of the missing runs, and the refusals; and if any run can run."""
    plan = SweepPlan.of(experiment, wanted)
    opened = _existing_store(store)
    tasks = plan.tasks()
    stored = {task.key for task in tasks if opened and task.is_stored(opened)}
    missing = [task for task in tasks if task.key not in stored]
    own = {each.task.key for each in plan.runs if each.task}
    summary = (
        f"{_counted(plan, len(own))} and {len(tasks) - len(own)} reference runs and bounds: {len(missing)} to compute, "
        f"{len(stored)} stored in {store}"
    )
    lines = [_matrix(experiment, plan, stored), "", *wrap(summary, WIDTH)]
    if missing:
        alone_s, processes = sampled_seconds(missing), workers.processes(len(missing))
        estimate = (
            f"about {duration(alone_s / processes)} on {processes} process{'es' * (processes > 1)} "
            f"({duration(alone_s)} of work), estimated by timing runs of a few requests; lower bounds are not included"
        )
        lines += wrap(estimate, WIDTH)
    return "\n".join([*lines, *_refusals(plan)]), bool(own)


def _counted(plan: SweepPlan, own: int) -> str:
    """The number of runs, `own` of which are computed: `36 runs, of which 12 cannot run and 3 are duplicates,`."""
    refused = _refused(plan)
    twice = len(plan.runs) - refused - own
    parts = [f"{refused} cannot run"] if refused else []
    parts += [f"{twice} {'is a duplicate' if twice == 1 else 'are duplicates'}"] if twice else []
    runs = quantity(len(plan.runs), "run")
    return f"{runs}, of which {' and '.join(parts)}," if parts else runs


def status_report(experiment: Experiment, store: Path, wanted: Collection[Reference], workers: Workers) -> str:
    """The number of finished runs, the running and failed ones, and the time left."""
    plan = SweepPlan.of(experiment, wanted)
    opened = _existing_store(store)
    if opened is None:
        return f"nothing has run yet: there is no store at {store}"
    journal = RunJournal(opened)
    tasks = {task.key: task for task in plan.tasks()}
    missing = {key: task for key, task in tasks.items() if not task.is_stored(opened)}
    running = {key: line for key, line in journal.running().items() if key in missing}
    failed = {key: error for key in missing if key not in running and (error := opened.failure(key))}
    lines = [
        f"{len(tasks) - len(missing)} of {len(tasks)} runs, references and bounds done, {len(running)} running, "
        f"{len(failed)} failed, {_refused(plan)} cannot run"
    ]
    left = TimeLeft(_waiting(missing, failed), journal.mean_seconds(), len(running) or workers.processes(len(tasks)))
    if missing and left.seconds() is not None:
        lines.append(f"about {left.text()}" + ("" if running else " once the sweep is started again"))
    lines += [f"running on {line.process}: {_described(tasks[key], experiment)}" for key, line in running.items()]
    lines += [f"failed: {_described(tasks[key], experiment)}: {error}" for key, error in failed.items()]
    return "\n".join([*lines, *_refusals(plan)])


def _described(task: RunTask, experiment: Experiment) -> str:
    """A run's policy (or that it is a bound) and its values on the axes: `lru, cache.share 0.25, seed 0`."""
    varied = [name for name in experiment.axes if name != "policy" and not name.startswith(SETTING)]
    run = Run(point={}, scenario=task.scenario)
    values = [f"{name} {value}" for name in varied if (value := run.value(name)) is not None]
    return ", ".join([task.name, *values])


def _existing_store(store: Path) -> ResultStore | None:
    """The store if it exists; a dry run does not create one."""
    return ResultStore.open(store, create=False) if store.exists() and any(store.iterdir()) else None


def _waiting(missing: Mapping[str, RunTask], failed: Collection[str]) -> Sequence[RunTask]:
    return [task for key, task in missing.items() if key not in failed]


def _refused(plan: SweepPlan) -> int:
    return sum(each.refusal is not None for each in plan.runs)


def _matrix(experiment: Experiment, plan: SweepPlan, stored: Collection[str]) -> str:
    """A row per run with its value on each axis."""
    axes = experiment.axes
    shown = plan.runs[:MOST_ROWS]
    rows: list[list[Any]] = []
    for each in shown:
        state = "cannot run" if each.task is None else "stored" if each.task.key in stored else "to compute"
        rows.append([*map(_shown, map(each.run.value, axes)), state])
    table = text_table(rows, [*axes, "state"], texts=len(axes) + 1)
    left_out = len(plan.runs) - len(shown)
    return table + (f"\n… and {left_out} more" if left_out else "")


def _shown(value: Any) -> Any:
    return MISSING if value is None else value


def _refusals(plan: SweepPlan) -> Iterator[str]:
    """Each reason once, with its number of runs."""
    reasons = Counter(each.refusal for each in plan.runs if each.refusal)
    for reason, count in reasons.items():
        yield from ["", *wrap(f"{count} run{'s' * (count > 1)} cannot run: {reason}", WIDTH, subsequent_indent="  ")]
