"""A sweep that is killed again and again ends in the bytes of one that was left alone, and computes nothing twice."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.files import is_alive
from sim.__main__ import main
from sim.experiment import Experiment
from sim.scenario import Scenario
from sim.store.result_store import ResultStore
from sim.sweeps.reference_runs import DEFAULT_REFERENCES
from sim.sweeps.sweep_plan import SweepPlan
from tests.support.sweep_runs import begun_again, events, run_bytes

ROOT = Path(__file__).parents[3]


def words(experiment: Path, store: Path, out: Path) -> list[str]:
    return ["sweep", str(experiment), "--store", str(store), "--out", str(out)]


def start(experiment: Path, store: Path, out: Path, *more: str) -> "subprocess.Popen[bytes]":
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-m", "sim", *words(experiment, store, out), "--jobs", "2", *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, start_new_session=True)


def stored_runs(store: Path) -> int:
    return sum(1 for _ in store.glob("runs/??/*/meta.json"))


def kill(process: "subprocess.Popen[bytes]", everything: bool) -> None:
    if everything:
        os.killpg(process.pid, signal.SIGKILL)
    else:  # its workers go on for a moment as orphans
        process.kill()
    process.wait()


def killed_on_the_way(experiment: Path, store: Path, out: Path, runs: int, kills: int) -> int:
    """Start the sweep, kill it when a share of its runs is stored, and so on; the answer is how often it was hit."""
    hits = 0
    for number in range(kills):
        goal = (number + 1) * runs // (kills + 1)
        process = start(experiment, store, out)
        while process.poll() is None and stored_runs(store) < goal:
            time.sleep(0.01)
        hits += process.poll() is None
        kill(process, everything=number % 2 == 0)
    assert main([*words(experiment, store, out), "--jobs", "1"]) == 0
    return hits


def check_kills(experiment: Experiment, tmp_path: Path, kills: int) -> None:
    file = tmp_path / "experiment.toml"
    experiment.write(file)
    runs = len(SweepPlan.of(experiment, DEFAULT_REFERENCES).tasks())
    assert main([*words(file, tmp_path / "alone", tmp_path / "alone-out"), "--jobs", "1"]) == 0
    hits = killed_on_the_way(file, tmp_path / "killed", tmp_path / "killed-out", runs, kills)
    assert hits >= max(1, kills - 1)
    check_the_same(tmp_path, runs)


def check_the_same(folder: Path, runs: int) -> None:
    """The sweep that was left alone and the one that was killed have written the same."""
    tables = [(folder / f"{name}-out" / "sweep.parquet").read_bytes() for name in ("alone", "killed")]
    assert tables[0] == tables[1]
    assert run_bytes(folder / "killed") == run_bytes(folder / "alone")
    assert begun_again(folder / "killed") == []
    assert sum(1 for _ in ResultStore.open(folder / "killed").runs()) == runs
    found = events(folder / "killed")
    assert all(count == 1 for (event, _), count in found.items() if event == "finished")


@dataclass(frozen=True, slots=True)
class Killed:
    """A sweep that was killed on the way, and not its workers."""

    folder: Path
    workers: set[int]


@pytest.fixture(scope="module")
def killed(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    grid = {"policy": ["finemoe", "lru"], "cache.experts": [8, 9, 10, 12, 14]}  # enough to be killed on the way
    Experiment(scenario=Scenario(trace, machine="rtx3090"), grid=grid).write(folder / "experiment.toml")
    store = folder / "killed"
    process = start(folder / "experiment.toml", store, folder / "killed-out")
    while stored_runs(store) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    workers = {int(path.stem.rpartition("-")[2]) for path in (store / "journal").glob("*.jsonl")}
    assert workers
    assert process.pid not in workers
    assert process.poll() is None
    kill(process, everything=False)
    return Killed(folder, workers)


def test_the_workers_of_a_killed_sweep_end(killed: Killed) -> None:
    for _ in range(1200):
        if not any(map(is_alive, killed.workers)):
            return
        time.sleep(0.1)
    raise AssertionError("workers outlived the sweep by two minutes")


def test_a_kill_on_the_way_changes_nothing(killed: Killed) -> None:
    folder = killed.folder
    runs = len(SweepPlan.of(Experiment.read(folder / "experiment.toml"), DEFAULT_REFERENCES).tasks())
    for name in ("killed", "alone"):
        assert main([*words(folder / "experiment.toml", folder / name, folder / f"{name}-out"), "--jobs", "1"]) == 0
    check_the_same(folder, runs)


@pytest.mark.slow
def test_a_kill_of_the_sweep_and_its_workers_changes_nothing(trace: Path, tmp_path: Path) -> None:
    grid = {"policy": ["finemoe", "lru"], "cache.experts": [8, 10, 12, 14], "seed": [0, 1]}
    check_kills(Experiment(scenario=Scenario(trace, machine="rtx3090"), grid=grid), tmp_path, kills=1)


@pytest.mark.long
def test_ten_kills_among_two_hundred_runs_of_the_pocket_model_change_nothing(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from traces.__main__ import main as traces
    from traces.pocket import DEMO_PROMPTS

    recorded = tmp_path / "pocket.trace"
    words = ["--prompts", str(DEMO_PROMPTS), "--max-new-tokens", "48", "--threads", "1", "--out", str(recorded)]
    assert traces(["collect", "pocket", *words]) == 0
    grid = {
        "policy": ["finemoe", "finemoe,learn=false", "moe-infinity", "promoe", "lru"],
        "cache.share": [0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75],
        "seed": [0, 1, 2, 3, 4],
    }
    check_kills(Experiment(scenario=Scenario(recorded, sizes="mixtral-8x7b"), grid=grid), tmp_path, kills=10)
