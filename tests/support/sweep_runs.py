"""Sweeps to run in tests, and what their stores say of how they ran."""

from collections import Counter
from pathlib import Path
from typing import Any

from sim.experiment import Experiment
from sim.scenario import Scenario
from sim.store.result_store import ResultStore
from sim.store.run_journal import RunJournal
from sim.sweeps.workers import Workers

HERE = Workers(jobs=1)


def small_experiment(trace: Path, **tables: Any) -> Experiment:
    """Two policies, two sizes, two seeds, unless other tables are given."""
    grid = {"policy": ["finemoe", "lru"], "cache.experts": [8, 16], "seed": [0, 1]}
    return Experiment(scenario=Scenario(trace, machine="rtx3090"), **(tables or {"grid": grid}))


def run_bytes(store: Path) -> dict[str, bytes]:
    """Every file of every run and bound in a store; not what a killed process was writing."""
    places = (path.relative_to(store) for part in ("runs", "bounds") for path in (store / part).rglob("*.*"))
    return {str(place): (store / place).read_bytes() for place in places if ".partial" not in str(place)}


def events(store: Path) -> Counter[tuple[str, str]]:
    """How often each run began and ended: a count per (event, key)."""
    return Counter((line.event, line.key) for line in RunJournal(ResultStore.open(store)).lines())


def begun_again(store: Path) -> list[str]:
    """Runs that began once more after they had finished."""
    done: set[str] = set()
    again = []
    for line in RunJournal(ResultStore.open(store)).lines():
        if line.event == "started" and line.key in done:
            again.append(line.key)
        if line.event == "finished":
            done.add(line.key)
    return again
