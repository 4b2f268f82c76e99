"""Processes that carry out runs: what they answer, and what is said when one of them cannot do its part."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from common.errors import UserError
from common.files import host
from sim.__main__ import main
from sim.store.result_store import ResultStore
from sim.sweeps import sweep_run, workers
from sim.sweeps.run_task import ROOT, Workplace, run_task
from sim.sweeps.sweep_plan import SweepPlan
from sim.sweeps.workers import Workers
from tests.support.ray_helpers import SweepFolder, needs_ray
from tests.support.slow_cases import slow_but
from tests.support.sweep_runs import small_experiment
from tests.support.trace_helpers import small_trace

DEADLY_POLICY = """
import os
import signal
from pathlib import Path

from policies.base import Policy, Prefetcher
from policies.evictors.recency import LeastRecentlyUsed


class Deadly(LeastRecentlyUsed):
    def start(self, setup):
        super().start(setup)
        try:
            Path("deadly").unlink()  # one process finds it, however many look at once
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def policy():
    return Policy(prefetcher=Prefetcher(), evictor=Deadly())
"""
Change = Callable[[Workplace, Path], Workplace]


def _square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def _refuse(number: int) -> None:
    raise UserError(f"number: must not be {number}")


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_call_is_answered_once_by_a_process_of_the_workers(jobs: int) -> None:
    answers = list(Workers(jobs=jobs).each(abs, [(-number,) for number in range(20)]))
    assert sorted(answers) == list(range(20))


def test_one_job_stays_in_this_process_and_two_do_not() -> None:
    for jobs, here in ((1, True), (2, False)):
        processes = {process for _, process in Workers(jobs=jobs).each(_square, [(1,), (2,)])}
        assert (processes == {os.getpid()}) == here
        assert here or os.getpid() not in processes


def test_a_single_call_stays_in_this_process_which_lives_on() -> None:
    assert list(Workers(jobs=2).each(_square, [(3,)])) == [(9, os.getpid())]
    time.sleep(0.6)  # a process of the workers would have found by now that its command is gone


def test_a_process_of_the_workers_ends_when_its_command_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process stands for it, so `_exit` is replaced; `__wrapped__`, since a process is watched once."""
    ended = threading.Event()
    monkeypatch.setattr(workers, "_end_with", workers._end_with.__wrapped__)
    monkeypatch.setattr(os, "_exit", lambda status: ended.set())
    assert workers._UntilCommandEnds(abs)(-3) == 3
    assert ended.wait(60)


def test_calls_are_answered_in_another_thread_than_the_main_one() -> None:
    """Where signals cannot be set."""
    answers: list[int] = []
    other = threading.Thread(target=lambda: answers.extend(Workers(jobs=1).each(abs, [(-1,), (-2,)])))
    other.start()
    other.join()
    assert answers == [1, 2]


@pytest.mark.parametrize("jobs", slow_but([1, 2], 1))
def test_the_error_of_a_call_comes_as_it_is(jobs: int) -> None:
    with pytest.raises(UserError, match=r"^number: must not be 3$"):
        list(Workers(jobs=jobs).each(_refuse, [(3,), (3,)]))


def test_nothing_to_do_asks_for_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(Workers(backend="ray").each(_square, [])) == []


# ---- workers that see something else ---------------------------------------------------------------------------------


def test_ctrl_c_while_processes_start_is_not_lost_and_does_not_reach_them() -> None:
    child = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    ended = []

    @workers._without_interrupts()
    def interrupted() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        ended.append(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ended == ["True\n"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.fixture
def sweep(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    """A folder to start a sweep in, whose store has the runs of seed 0 already; none of 1."""
    made = SweepFolder.made(tmp_path / "here", trace, policies=("lru", "finemoe"), seeds=1)
    monkeypatch.chdir(made.path)
    assert main(["sweep", "experiment.toml", "--store", "store", "--references", "none", "--jobs", "1"]) == 0
    return SweepFolder.made(made.path, trace, policies=("lru", "finemoe"), seeds=2)


def another_store(place: Workplace, other: Path) -> Workplace:
    ResultStore.open(other)
    return replace(place, store=other)


def another_trace(place: Workplace, other: Path) -> Workplace:
    small_trace(other / "small.trace", 9)
    return replace(place, folder=other)


def empty_folder(place: Workplace, other: Path) -> Workplace:
    other.mkdir()
    return replace(place, folder=other)


def another(name: str) -> Change:
    return lambda place, other: replace(place, code=tuple((dict(place.code) | {name: "0"}).items()))


SEEN = {
    "no store": (
        lambda place, other: replace(place, store=other),
        "{other}: does not exist",
    ),
    "another store": (another_store, "{other} is not the store that the sweep uses"),
    "no folder": (
        lambda place, other: replace(place, folder=other),
        "cannot enter {other}: No such file or directory",
    ),
    "no trace": (empty_folder, "small.trace"),
    "another trace": (another_trace, "{other}/small.trace, or another file that lru needs, differs from the one that"),
    "other code": (another("sources"), f"the code in {ROOT} differs from the sweep's"),
    "other libraries": (another("numpy"), f"{sys.prefix} has numpy "),
}


@pytest.mark.parametrize("seen", SEEN)
def test_a_run_is_refused_where_it_would_differ(
    trace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seen: str
) -> None:
    (change, said), other = SEEN[seen], tmp_path / "other"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trace, "small.trace")
    store = ResultStore.open("store")
    (task,) = SweepPlan.of(small_experiment(Path("small.trace"), grid={"policy": ["lru"]}), ()).tasks()
    with pytest.raises(UserError, match=f"^worker on {host()}[^\n]*{re.escape(said.format(other=other))}[^\n]*$"):
        run_task(task, change(Workplace.here(store), other))
    assert not store.has(task.key, task.scenario)
    assert run_task(task, Workplace.here(store)).end == "done"


@pytest.mark.parametrize(
    ("jobs", "seen"),
    slow_but(
        [("1", "another store"), ("1", "another trace"), ("1", "other code"), ("2", "another store")],
        ("1", "another trace"),
    ),
)
def test_a_worker_that_sees_other_inputs_reports_it_and_finished_runs_are_kept(
    sweep: SweepFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    jobs: str,
    seen: str,
) -> None:
    change, said = SEEN[seen]
    other = tmp_path / "other"
    command = ["sweep", "experiment.toml", "--store", "store", "--references", "none", "--jobs", jobs]
    capsys.readouterr()
    with monkeypatch.context() as patch:
        here = Workplace.here
        patch.setattr(sweep_run.Workplace, "here", lambda store: change(here(store), other))
        assert main(command) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith(f"error: worker on {host()}")
    assert said.format(other=other) in errors
    assert errors.count("\n") == 1
    assert main(command) == 0
    assert "4 done" in capsys.readouterr().out
    assert sorted(sweep.counts("store")["started"].values()) == [1] * 4


# ---- workers that die ------------------------------------------------------------------------------------------------


KILLED = (
    "error: a process that ran scenarios was killed, possibly out of memory; run the same command again to resume, "
    "with fewer --jobs if it happens again\n"
)


class KilledAtTheThird:
    """Stands for joblib, whose process was killed in the third call."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def __call__(self, calls: Iterable[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]) -> Iterator[Any]:
        for number, (function, arguments, named) in enumerate(calls):
            if number == 2:
                raise TerminatedWorkerError("out of memory")
            yield function(*arguments, **named)


def test_runs_before_a_worker_was_killed_are_kept_and_the_next_call_resumes(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = SweepFolder.made(tmp_path, trace, policies=("lru",), seeds=4)
    monkeypatch.chdir(tmp_path)
    command = ["sweep", "experiment.toml", "--references", "none", "--store", "store", "--jobs", "1"]
    with monkeypatch.context() as patched:
        patched.setattr(workers, "Parallel", KilledAtTheThird)
        assert main(command) == 2
    assert capsys.readouterr() == ("", KILLED)
    assert len(sweep.stored("store")) == 2
    assert main(command) == 0
    assert "4 done" in capsys.readouterr().out
    assert sorted(sweep.counts("store")["started"].values()) == [1] * 4


@pytest.mark.slow
def test_a_killed_worker_is_one_line_and_the_next_call_resumes(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = SweepFolder.made(tmp_path, trace, policies=("lru", "deadly_policy:policy"), seeds=4)
    (tmp_path / "deadly_policy.py").write_text(DEADLY_POLICY)
    (tmp_path / "deadly").touch()
    monkeypatch.chdir(tmp_path)
    command = ["sweep", "experiment.toml", "--references", "none", "--store", "store", "--jobs"]
    assert main([*command, "2"]) == 2
    assert capsys.readouterr() == ("", KILLED)
    assert not Path("deadly").exists()
    assert main([*command, "1"]) == 0
    out, errors = capsys.readouterr()
    assert errors == ""
    assert "8 done" in out
    counts = sweep.counts("store")
    assert len(counts["started"]) == 8
    assert sum(counts["started"].values()) <= 8 + 2  # as many as there are jobs
    assert set(counts["finished"].values()) == {1}
    assert len(counts["finished"]) >= 8 - 2  # a kill between a result and its line in the journal loses the line alone
    assert set(sweep.stored("store")) == set(counts["started"])


# ---- Ray that is not there -------------------------------------------------------------------------------------------


def test_without_ray_one_line_says_how_to_install_it(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(SweepFolder.made(tmp_path, trace, policies=("lru",), seeds=2).path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "experiment.toml", "--store", "store", "--backend", "ray"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --backend: ray cannot be imported")
    assert error.endswith("; pip install 'finemoe-lab[ray]'\n")
    assert error.count("\n") == 1


UNREACHABLE = "error: no Ray cluster answers at $RAY_ADDRESS, 127.0.0.1:1: Connection refused\n"


def test_an_unreachable_address_is_an_error_of_one_line(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray, which takes a second to import, is not asked for more than whether it has begun."""
    monkeypatch.chdir(SweepFolder.made(tmp_path, trace, policies=("lru",), seeds=2).path)
    (tmp_path / "ray.py").write_text("def is_initialized():\n    return False\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    del sys.modules["ray"]  # afterwards, it is what it was before
    with patch.dict(os.environ, RAY_ADDRESS="127.0.0.1:1"):
        assert main(["sweep", "experiment.toml", "--store", "store", "--backend", "ray"]) == 2
    assert capsys.readouterr() == ("", UNREACHABLE)


@needs_ray
@pytest.mark.slow
def test_an_address_that_rays_own_command_cannot_reach_is_an_error_of_one_line(trace: Path, tmp_path: Path) -> None:
    sweep = SweepFolder.made(tmp_path, trace, policies=("lru",), seeds=2)
    assert sweep.run("--store", "store", address="127.0.0.1:1") == (2, "", UNREACHABLE)
