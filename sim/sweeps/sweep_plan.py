"""Plans a sweep: the keys of all runs and reference runs, and the refusals."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from common.errors import UnknownNameError, UserError
from common.progress import bar
from policies.cache.setup_without_cache import setup_without_cache
from policies.naming import parts_of
from policies.registry import is_own, make_policy
from policies.types import ModelShape
from sim.content_hash import RunKeys, key_of
from sim.experiment import Experiment, Run
from sim.inputs import Inputs, Resolver, split_fields
from sim.results.policy_comparison import RESIDENT
from sim.scenario import Scenario
from sim.store.result_store import ResultStore
from sim.sweeps.reference_runs import Reference, reference_runs
from sim.sweeps.run_task import RunTask

BOUND = "lower_bound"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """A run of the matrix, with its task or the reason why it cannot run."""

    run: Run
    refusal: str | None = None
    task: RunTask | None = None
    """None if the run is refused."""
    inputs: Inputs | None = None
    references: Mapping[str, Sequence[RunTask]] = field(default_factory=dict)
    """Its reference runs by name; of several, the fastest counts. Those that cannot run are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """The runs of an experiment, in the order of its matrix."""

    runs: Sequence[PlannedRun]

    @classmethod
    def of(cls, experiment: Experiment, wanted: Collection[Reference]) -> "SweepPlan":
        """Resolve every run; a run that its scenario or inputs do not allow is refused.

        A name that does not exist raises an `UnknownNameError`, since it is a mistake in all runs that have it.
        """
        return cls.of_runs(experiment.matrix(), wanted)

    @classmethod
    def of_runs(cls, runs: Sequence[Run], wanted: Collection[Reference]) -> "SweepPlan":
        """Like `of`, for any list of runs."""
        planner = _Planner(wanted)
        with bar("planning", len(runs), unit="run") as done:
            planned = []
            for run in runs:
                planned.append(planner.planned(run))
                done(1)
        return cls(runs=planned)

    def tasks(self) -> Sequence[RunTask]:
        """Every run once, including reference runs; bounds last.

        Runs that may share predictions are kept apart, so that the first has computed them before the others start.
        """
        tasks = {
            task.key: task
            for each in self.runs
            if each.task
            for task in (each.task, *chain.from_iterable(each.references.values()))
        }
        rounds: dict[tuple[Any, ...], int] = {}
        ordered = []
        for place, task in enumerate(tasks.values()):
            group = (task.bound, *_shared(task.scenario))
            rounds[group] = rounds.get(group, -1) + 1
            ordered.append((task.bound, rounds[group], place, task))
        return [task for *_, task in sorted(ordered, key=lambda each: each[:3])]

    def missing(self, store: ResultStore) -> Sequence[RunTask]:
        """The tasks whose results the store does not have."""
        return [task for task in self.tasks() if not task.is_stored(store)]


class _Planner:
    def __init__(self, wanted: Collection[Reference]) -> None:
        self._wanted = wanted
        self._resolver = Resolver()
        self._keys = RunKeys()
        self._known: dict[Scenario, tuple[RunTask, Inputs]] = {}
        self._started: set[tuple[str, ModelShape]] = set()

    def planned(self, run: Run) -> PlannedRun:
        if run.scenario is None:
            return PlannedRun(run=run, refusal=run.problem)
        try:
            task, inputs = self._task(run.scenario)
        except UnknownNameError:
            raise
        except UserError as error:
            return PlannedRun(run=run, refusal=str(error))
        return PlannedRun(run=run, task=task, inputs=inputs, references=self._references(run.scenario, inputs))

    def _task(self, scenario: Scenario) -> tuple[RunTask, Inputs]:
        if scenario not in self._known:
            inputs = self._resolver.resolve(scenario)
            self._check_settings(scenario.policy, inputs.model)
            key = self._keys.of(scenario, inputs)
            if key is None:
                raise UserError(f"policy {scenario.policy} is defined in a script, so other processes cannot import it")
            self._known[scenario] = RunTask(scenario=scenario, key=key), inputs
        return self._known[scenario]

    def _check_settings(self, policy: str, model: ModelShape) -> None:
        """Raise a `UserError` if one of our own policies refuses its settings with this model, by starting it."""
        if (policy, model) in self._started or not is_own(policy):
            return
        made = make_policy(policy)
        if "future" not in made.requires:
            made.start(setup_without_cache(model, np.random.default_rng(0)))
        self._started.add((policy, model))

    def _references(self, scenario: Scenario, inputs: Inputs) -> dict[str, Sequence[RunTask]]:
        found: dict[str, Sequence[RunTask]] = {}
        for name, runs in reference_runs(scenario, inputs, self._wanted).items():
            with suppress(UserError):  # the run itself may still be possible
                found[name] = [self._task(each)[0] for each in runs]
        if "lower-bound" in self._wanted:
            key = key_of(self._keys.bound_facts(scenario, inputs))
            found[BOUND] = [RunTask(scenario=replace(scenario, policy=RESIDENT, label=None), key=key, bound=True)]
        return found


def _shared(scenario: Scenario) -> tuple[Any, ...]:
    """The fields of a scenario that predictions depend on; the policy without a replaced evictor."""
    return parts_of(scenario.policy)[0], scenario.batch_size, *split_fields(scenario)
