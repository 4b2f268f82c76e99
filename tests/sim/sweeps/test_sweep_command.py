"""`finemoe sim sweep` and `sim store`, as a user types them."""

import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sim.__main__ import main
from sim.sweeps.sweep import Sweep
from tests.support.run_helpers import NO_REFERENCES
from tests.support.sweep_runs import begun_again, events, run_bytes, small_experiment

ROOT = Path(__file__).parents[3]
GRID = {"policy": ["finemoe", "lru"], "cache.experts": [8, 16]}


@pytest.fixture
def file(trace: Path, tmp_path: Path) -> Path:
    small_experiment(trace).write(tmp_path / "experiment.toml")
    return tmp_path / "experiment.toml"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def sweep(file: Path, store: Path, *more: object) -> int:
    return main(["sweep", str(file), "--store", str(store), "--jobs", "1", *map(str, more)])


@dataclass(frozen=True, slots=True)
class Done:
    """A sweep with references that is over: its file, its store, its table and what it printed."""

    file: Path
    store: Path
    out: Path
    printed: str
    errors: str


@pytest.fixture(scope="module")
def done(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("done")
    file, store, out = folder / "experiment.toml", folder / "store", folder / "out"
    small_experiment(trace, grid=GRID).write(file)
    with redirect_stdout(StringIO()) as printed, redirect_stderr(StringIO()) as errors:
        assert sweep(file, store, "--out", out) == 0
    return Done(file, store, out, printed.getvalue(), errors.getvalue())


def test_a_sweep_prints_a_table_and_writes_one_that_pandas_opens(done: Done) -> None:
    assert done.errors == ""
    assert "finemoe" in done.printed
    assert max(map(len, done.printed.splitlines())) <= 100
    frame = pd.read_parquet(done.out / "sweep.parquet")
    assert len(frame) == 4
    assert Sweep.read(done.out).report() in done.printed


def test_a_dry_run_computes_no_run_and_makes_no_store(
    file: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(file, store, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "8 runs and 18 reference runs and bounds: 26 to compute, 0 stored in" in said
    assert "to compute" in said
    assert not store.exists()


def test_a_dry_run_shows_stored_runs_and_reasons_for_refusals(
    trace: Path, tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = {"policy": ["lru"], "cache.experts": [1, 8, 16]}
    small_experiment(trace, grid=grid | {"cache.experts": [8]}).write(tmp_path / "small.toml")
    small_experiment(trace, grid=grid).write(tmp_path / "large.toml")
    assert sweep(tmp_path / "small.toml", store) == 0
    capsys.readouterr()
    assert sweep(tmp_path / "large.toml", store, "--dry-run") == 0
    said = capsys.readouterr().out
    states = [line.split()[-1] for line in said.splitlines()[2:5]]
    assert states == ["run", "stored", "compute"]
    assert "1 run cannot run: cache.experts: 1 gives room for 1 expert; " in said
    assert all(len(line) <= 100 for line in said.splitlines())


def test_a_dry_run_of_which_nothing_can_run_is_a_mistake(trace: Path, tmp_path: Path, store: Path) -> None:
    small_experiment(trace, grid={"policy": ["lru"], "cache.experts": [1]}).write(tmp_path / "a.toml")
    assert sweep(tmp_path / "a.toml", store, "--dry-run") == 2


def test_the_status_of_a_sweep_that_is_over_and_of_one_that_has_not_begun(
    done: Done, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(done.file, store, "--status") == 0
    assert capsys.readouterr().out == f"nothing has run yet: there is no store at {store}\n"
    assert sweep(done.file, done.store, "--status") == 0
    assert capsys.readouterr().out.startswith(
        "13 of 13 runs, references and bounds done, 0 running, 0 failed, 0 cannot run"
    )


def test_json_is_a_list_of_rows(done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(done.file, done.store, "--json", *NO_REFERENCES) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == ["done"] * 4
    assert all(row["best_known_tpot_s_mean"] is None and row["best_known"] is None for row in rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--references", "best-knwon"], "--references: unknown reference 'best-knwon'; did you mean 'best-known'?"),
        (["--jobs", "0"], "--jobs: must be at least 1, not 0"),
    ],
)
def test_a_mistake_is_one_line(
    file: Path, store: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["sweep", str(file), "--store", str(store), *words]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"
    assert not store.exists()


@pytest.mark.slow
def test_two_sweeps_at_once_share_a_store(file: Path, store: Path, tmp_path: Path) -> None:
    def start(name: str) -> "subprocess.Popen[bytes]":
        words = ["sweep", str(file), "--store", str(store), "--jobs", "1", "--out", str(tmp_path / name)]
        return subprocess.Popen([sys.executable, "-m", "sim", *words], cwd=ROOT, stdout=subprocess.DEVNULL)

    assert [process.wait() for process in [start("a"), start("b")]] == [0, 0]
    tables = [(tmp_path / name / "sweep.parquet").read_bytes() for name in "ab"]
    assert tables[0] == tables[1]
    assert sweep(file, tmp_path / "alone") == 0
    assert run_bytes(store) == run_bytes(tmp_path / "alone")


def test_the_environment_names_the_store(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "experiment.toml"
    small_experiment(trace, grid={"policy": ["lru"]}).write(file)
    monkeypatch.setenv("FINEMOE_STORE", str(tmp_path / "named"))
    assert main(["sweep", str(file), "--jobs", "1", "--references", "none"]) == 0
    assert main(["store", "info", "--json"]) == 0
    assert os.listdir(tmp_path / "named" / "runs")  # noqa: PTH208  # only whether there is anything
    capsys.readouterr()


@pytest.fixture(scope="module")
def compared(trace: Path) -> tuple[list[str], str]:
    """The words of a comparison, and what it prints."""
    words = ["run", str(trace), *(word for name in ("lru", "finemoe", "no-offload") for word in ("--policy", name))]
    with redirect_stdout(StringIO()) as printed:
        assert main([*words, "--json"]) == 0
    return [*words, "--json"], printed.getvalue()


def test_a_comparison_reads_its_runs_and_references_from_a_store(
    compared: tuple[list[str], str], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, alone = compared
    for _ in range(2):
        assert main([*words, "--store", str(store)]) == 0
        assert capsys.readouterr().out == alone
    assert main(["store", "info", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 7  # no-offload, three that know all, finemoe's own cache
    assert events(store) == {}  # it computed in its own process, and nothing on the second time


@pytest.mark.parametrize("jobs", [1, 2])
def test_policies_that_run_side_by_side_give_the_same_table(
    compared: tuple[list[str], str], capsys: pytest.CaptureFixture[str], jobs: int
) -> None:
    words, alone = compared
    assert main([*words, "--jobs", str(jobs)]) == 0
    assert capsys.readouterr().out == alone


def test_without_references_a_comparison_runs_no_others(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", str(trace), "--policy", "lru", "--references", "none", "--json"]
    assert main(words) == 0
    (row,) = json.loads(capsys.readouterr().out)
    compared = ("tpot_over_no_offload", "tpot_over_best_known", "makespan_lower_bound_s")
    assert [row[name] for name in compared] == [None] * 3
    assert main([*words[:-1]]) == 0
    assert "over no-" not in capsys.readouterr().out  # nor has its table columns for them


def test_a_full_disk_ends_in_one_line_and_the_next_call_resumes(
    trace: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sim.results import result

    file = tmp_path / "experiment.toml"
    small_experiment(trace, grid=GRID).write(file)

    writes = 0

    def filling_up(*given: Any, **more: Any) -> None:
        nonlocal writes
        writes += 1
        if writes > 7:
            raise OSError(28, "No space left on device")
        write_frame(*given, **more)

    write_frame = result.write_frame
    monkeypatch.setattr(result, "write_frame", filling_up)
    assert sweep(file, store, *NO_REFERENCES) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {store}: a run could not be stored: ")
    assert said.endswith("No space left on device\n")
    assert said.count("\n") == 1
    kept = run_bytes(store)
    assert len({name.split("/")[2] for name in kept}) == 2  # whole runs of three tables each
    monkeypatch.undo()
    assert sweep(file, store, *NO_REFERENCES) == 0
    assert run_bytes(store).items() >= kept.items()
    assert begun_again(store) == []
    assert sweep(file, tmp_path / "alone", *NO_REFERENCES) == 0
    assert run_bytes(store) == run_bytes(tmp_path / "alone")


def test_a_store_of_another_version_is_refused_before_anything_runs(
    file: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.mkdir()
    (store / "store.json").write_text('{"schema_version": 0, "id": "a"}')
    assert sweep(file, store) == 2
    assert "field schema_version: must be 1, not 0" in capsys.readouterr().err
    assert [path.name for path in store.iterdir()] == ["store.json"]


def test_neither_store_nor_output_lies_within_the_other(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, inner = tmp_path / "one", tmp_path / "one" / "inner"
    for store, out in ((one, one), (one, inner), (inner, one)):
        assert sweep(file, store, "--out", out, "--overwrite") == 2
        said = f"error: --store {store} and --out {out} must not lie within each other\n"
        assert capsys.readouterr().err == said
        assert not one.exists()


def test_an_existing_output_is_refused_before_anything_runs(
    file: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    assert sweep(file, store, "--out", tmp_path / "out") == 2
    assert "exists already" in capsys.readouterr().err
    assert not store.exists()


@pytest.mark.parametrize("words", [["--dry-run", "--status"], ["--status", "--json"], ["--dry-run", "--out", "x"]])
def test_options_that_exclude_each_other_are_refused(
    file: Path, store: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(file, store, *words) == 2
    assert "cannot be combined with" in capsys.readouterr().err


def test_a_sweep_without_a_possible_run_prints_why_writes_nothing_and_fails(
    file: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(file.read_text().replace(".trace", ".trase"))
    assert sweep(file, store, "--out", tmp_path / "out") == 2
    printed = capsys.readouterr()
    assert "small.trase: does not exist" in " ".join(printed.out.split())
    assert printed.err == "error: no run finished, so nothing is written\n"
    assert not (tmp_path / "out").exists()


def test_settings_that_a_policy_refuses_are_found_before_it_runs(
    trace: Path, tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = {"policy": ["finemoe", "lru"], "policy.prefetch_distance": [2, 40]}
    small_experiment(trace, grid=grid).write(tmp_path / "a.toml")
    assert sweep(tmp_path / "a.toml", store, "--dry-run") == 0
    assert "1 run cannot run: finemoe: prefetch_distance: must be from 1 to 4, not 40" in capsys.readouterr().out


def test_a_store_that_has_everything_need_not_be_written(
    done: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sim.store.result_store import ResultStore

    def refuse(self: ResultStore) -> None:
        raise AssertionError("it was written to")

    monkeypatch.setattr(ResultStore, "check_writable", refuse)
    assert sweep(done.file, done.store, *NO_REFERENCES) == 0
    assert "4 done" in capsys.readouterr().out
