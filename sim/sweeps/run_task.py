"""One run of a sweep, which any process on any machine can execute.

The result of a finished task is in the store; only its outcome is returned. A process keeps what it has read for one
task for the next.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError, one_line
from common.files import host
from sim.content_hash import RunKeys, code_facts, key_of
from sim.inputs import Inputs, Resolver
from sim.results.bounds import makespan_lower_bound_s
from sim.results.result import Result
from sim.scenario import Scenario
from sim.simulation import simulate
from sim.store.result_store import ResultStore, StoreError
from sim.store.run_journal import RunJournal
from sim.sweeps.reference_runs import resident

ROOT = Path(__file__).parents[2]
End = Literal["done", "known", "failed"]


class WorkerError(UserError):
    """A process cannot execute any run, because it sees another store, other code or other inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTask:
    """A scenario to simulate or, with `bound`, to compute a lower bound for."""

    scenario: Scenario
    key: str
    bound: bool = False

    @property
    def name(self) -> str:
        """The task's name in progress and journal: its policy, or `lower bound`."""
        return "lower bound" if self.bound else self.scenario.policy

    def is_stored(self, store: ResultStore) -> bool:
        """Whether the store has its result."""
        return store.bound_s(self.key) is not None if self.bound else store.has(self.key, self.scenario)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where tasks run: the folder that paths and modules are relative to, and the store."""

    folder: Path
    store: Path
    identity: str
    """The store's id, with which a process on another machine checks that it sees the same store."""
    code: tuple[tuple[str, str], ...]
    """The digest of our code and the versions of libraries, by name; keys depend on them."""

    @classmethod
    def here(cls, store: ResultStore) -> "Workplace":
        """The current folder and a store, as this process sees them."""
        return cls(
            folder=Path.cwd(),
            store=store.folder.absolute(),
            identity=store.identity,
            code=tuple(sorted(code_facts().items())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnd:
    """How a task has ended."""

    key: str
    policy: str
    end: End
    error: str | None = None
    wall_s: float = 0.0


def run_task(task: RunTask, workplace: Workplace) -> TaskEnd:
    """Execute a task unless the store has its result.

    An error of the policy or its inputs ends only this task. A `WorkerError` or `StoreError` ends all tasks, because no
    other task could succeed here.
    """
    with at_folder(workplace.folder):
        return _Desk.at(workplace).carry_out(task)


class _Desk:
    """What a process keeps between tasks."""

    def __init__(self, workplace: Workplace) -> None:
        _check_code(workplace)
        self.store = _open(workplace)
        self.journal = RunJournal(self.store)
        self._prepare()

    def _prepare(self) -> None:
        self._keys = RunKeys()
        self._artefacts = self.store.artefacts(self._keys.code)
        self._resolver = Resolver(self._artefacts)

    @staticmethod
    @lru_cache(maxsize=1)  # a process serves one sweep at a time, with many tasks
    def at(workplace: Workplace) -> "_Desk":
        return _Desk(workplace)

    def carry_out(self, task: RunTask) -> TaskEnd:
        policy = task.name
        if task.is_stored(self.store):
            return TaskEnd(key=task.key, policy=policy, end="known")
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        error = None
        try:
            inputs, facts = self._prepared(task)
            self.journal.note("started", task.key, policy)
            self._compute(task, inputs, facts)
        except (StoreError, WorkerError):
            raise
        except Exception as raised:  # an error of a policy or of ours must not stop the other runs
            error = str(raised) if isinstance(raised, UserError) else f"{type(raised).__name__}: {one_line(raised)}"
            self.store.put_failure(task.key, policy, error)
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        self.journal.note("failed" if error else "finished", task.key, policy, wall_s=wall_s, cpu_s=cpu_s)
        return TaskEnd(key=task.key, policy=policy, end="failed" if error else "done", error=error, wall_s=wall_s)

    def _compute(self, task: RunTask, inputs: Inputs, facts: dict[str, Any]) -> None:
        if not task.bound:
            scenario = self.store.widened(task.key, task.scenario)
            self.store.put(task.key, self._simulated(scenario, inputs), facts)
            return
        everything_there = resident(task.scenario, inputs)
        its_inputs = self._resolver.resolve(everything_there)
        key = self._keys.of(everything_there, its_inputs)
        assert key is not None  # it is of our own policy
        found = self.store.find(key, everything_there, its_inputs)
        found = found or self._simulated(everything_there, its_inputs)
        assert found.iterations is not None
        least_s = makespan_lower_bound_s(task.scenario, inputs, found.iterations["end_s"].to_numpy())
        self.store.put_bound(task.key, least_s, facts)

    def _simulated(self, scenario: Scenario, inputs: Inputs) -> Result:
        return simulate(scenario, inputs, keys=self._keys, artefacts=self._artefacts, quiet=True)

    def _prepared(self, task: RunTask) -> tuple[Inputs, dict[str, Any]]:
        """The inputs of a task and the facts behind its key, which must be those of the sweep."""
        for _ in range(2):
            try:
                inputs = self._resolver.resolve(task.scenario)
            except UserError as error:
                raise WorkerError(f"worker on {host()}, in {Path.cwd()}: {error}") from error
            keys = self._keys
            facts = (keys.bound_facts if task.bound else keys.facts)(task.scenario, inputs)
            if facts is not None and key_of(facts) == task.key:
                return inputs, facts
            self._prepare()  # a file may have changed between two sweeps
        raise WorkerError(
            f"worker on {host()}: {task.scenario.trace.absolute()}, or another file that {task.scenario.name} needs, "
            "differs from the one that the sweep was planned with"
        )


def _check_code(workplace: Workplace) -> None:
    """Raise a `WorkerError` if this process runs other code than the sweep, because all keys would differ."""
    try:
        here = code_facts()
    except UserError as error:
        raise WorkerError(f"worker on {host()}: {error}") from error
    for name, wanted in workplace.code:
        if here.get(name) == wanted:
            continue
        if name == "sources":
            raise WorkerError(f"worker on {host()}: the code in {ROOT} differs from the sweep's")
        raise WorkerError(f"worker on {host()}: {sys.prefix} has {name} {here.get(name)}, the sweep has {wanted}")


def _open(workplace: Workplace) -> ResultStore:
    try:
        store = ResultStore.open(workplace.store, create=False)
    except StoreError as error:
        raise WorkerError(f"worker on {host()}: {error}") from error
    if store.identity != workplace.identity:
        raise WorkerError(f"worker on {host()}: {workplace.store} is not the store that the sweep uses")
    return store


@contextlib.contextmanager
def at_folder(folder: Path) -> Iterator[None]:
    """Make this the current folder, which paths and policies' modules are relative to."""
    try:
        change = contextlib.chdir(folder)
        change.__enter__()
    except OSError as error:
        raise WorkerError(f"worker on {host()}: cannot enter {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        change.__exit__(None, None, None)
