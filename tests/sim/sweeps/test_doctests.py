"""What docstrings and `docs/sweeps.md` show of sweeps runs as it stands there, on a small trace."""

import doctest
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sim.experiment import Experiment
from sim.sweeps import sweep_run
from sim.sweeps.sweep import Sweep
from tests.support.sweep_runs import HERE, events

GUIDE = Path(__file__).parents[3] / "docs" / "sweeps.md"


def blocks(language: str) -> list[str]:
    """The blocks of a language in the guide, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def here(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a trace of the guide's name, in which the guide's commands would be typed."""
    (tmp_path / "gpt-oss.trace").symlink_to(trace)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(block: str, folder: Path) -> Experiment:
    (folder / "experiment.toml").write_text(block, encoding="utf-8")
    return Experiment.read(folder / "experiment.toml")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for guide and docstring, whose runs are nearly the same."""
    return tmp_path_factory.mktemp("doctests") / "store"


def test_the_example_of_run_sweep_gives_what_it_says(
    trace: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, where the example takes as many as there are processors."""
    monkeypatch.setitem(sweep_run.run_sweep.__kwdefaults__, "workers", HERE)
    store.mkdir(exist_ok=True)
    (tmp_path / "store").symlink_to(store)
    shown = {"small_trace": trace, "folder": tmp_path}
    (example,) = doctest.DocTestFinder(recurse=False).find(
        sweep_run.run_sweep, "run_sweep", globs=shown, module=sweep_run
    )
    results = doctest.DocTestRunner().run(example)
    assert (results.failed, results.attempted) == (0, 4)


def test_the_python_of_the_guide_reads_its_sweep_and_runs_it_again_from_the_store(here: Path, store: Path) -> None:
    store.mkdir(exist_ok=True)
    (here / "finemoe-store").symlink_to(store)
    first, *_ = blocks("toml")
    whole = read(first, here)
    again = {name: whole.grid[name][:most] for name, most in (("cache.share", 2), ("seed", 3))}
    few = replace(whole, grid={"policy": ["finemoe", "lru"], **again})  # of its policies and sizes, those run again
    assert {*few.grid["policy"]} < {*whole.grid["policy"]}
    swept = sweep_run.run_sweep(few, store="finemoe-store", workers=HERE)
    swept.write("gpt-oss-sweep")
    computed = events(here / "finemoe-store")
    variables: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block, str(GUIDE), "exec"), variables)
    pd.testing.assert_frame_equal(variables["frame"], swept.frame)
    found = variables["sweep"]
    assert isinstance(found, Sweep)
    assert set(found.frame["status"]) == {"done"}
    assert events(here / "finemoe-store") == computed  # the guide says that nothing is computed again


def test_the_other_tables_of_the_guide_give_as_many_runs_as_it_says(here: Path) -> None:
    _, tables = blocks("toml")
    runs = read(tables, here).matrix()
    assert [run.problem for run in runs] == [None] * len(runs)
    assert f"{len(runs)} runs" in GUIDE.read_text(encoding="utf-8")
