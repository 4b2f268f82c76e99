"""docs/results.md lists the columns of every table that a command writes."""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sim.__main__ import main as sim
from tests.support.trace_helpers import small_shape, small_trace
from traces.__main__ import main as traces
from validate.comparison.errors_by_metric import COLUMNS

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "results.md"
SHAPE = small_shape(layers=4, experts=8)
FIGURES = "Figures of a run"
OTHERS = ("requests.parquet", "iterations.parquet", "events.parquet")


def sections() -> dict[str, set[str]]:
    """The columns that each section of the document lists, by its heading."""
    found: dict[str, set[str]] = {}
    for section in DOCUMENT.read_text(encoding="utf-8").split("\n### ")[1:]:
        heading, _, text = section.partition("\n")
        rows = re.findall(r"^\| (`[^|]*) \|", text.partition("\n## ")[0], re.MULTILINE)
        found[heading.replace("`", "")] = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    return found


def listed(*headings: str) -> set[str]:
    return set().union(*(sections()[heading] for heading in headings))


def columns(file: Path) -> set[str]:
    return set(pq.read_schema(file).names)


def head(file: Path) -> list[str]:
    with file.open(encoding="utf-8", newline="") as lines:
        return next(csv.reader(lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def trace(folder: Path) -> Path:
    return small_trace(folder / "small.trace", 10, shape=SHAPE)


def run(command: Callable[[Sequence[str]], int], *words: object) -> None:
    assert command([str(word) for word in words]) == 0


def test_the_tables_of_a_run(folder: Path, trace: Path) -> None:
    run(sim, "run", trace, "--policy", "finemoe", "--detail", "events", "--out", folder / "run")
    assert sorted(file.name for file in (folder / "run").glob("*.parquet")) == sorted(["summary.parquet", *OTHERS])
    assert columns(folder / "run" / "summary.parquet") == listed(FIGURES, "summary.parquet")
    for name in OTHERS:
        assert columns(folder / "run" / name) == listed(name)


def test_the_table_of_a_sweep(folder: Path, trace: Path) -> None:
    experiment = folder / "sweep.toml"
    axes = '[grid]\npolicy = ["lru"]\n"cache.share" = [0.5]\n'
    experiment.write_text(f'[scenario]\ntrace = "{trace.as_posix()}"\n{axes}', encoding="utf-8")
    store = ("--store", folder / "store", "--jobs", 1)
    run(sim, "sweep", experiment, *store, "--out", folder / "sweep")
    assert columns(folder / "sweep" / "sweep.parquet") == listed(FIGURES, "sweep.parquet") | {"cache.share"}
    run(sim, "whatif", trace, "--policy", "lru", "--requests", 1, *store, "--out", folder / "whatif")
    found = columns(folder / "whatif" / "sweep.parquet")
    assert found == listed(FIGURES, "sweep.parquet", "sweep.parquet of sim whatif") | {"cache.experts"}


def test_the_table_of_predictions(folder: Path, trace: Path) -> None:
    run(sim, "predict", trace, "--policy", "finemoe", "--distance", 1, "--out", folder / "predictions.parquet")
    assert columns(folder / "predictions.parquet") == listed("sim predict --out")


def test_the_table_of_a_comparison_with_measurements() -> None:
    assert set(COLUMNS) == listed("validate compare --out")


def test_the_tables_of_an_analysis(folder: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traces.analysis.analysis_figures.draw_all", lambda *given, **named: None)
    run(traces, "analyse", trace, "--out", folder / "analysis")
    files = sorted((folder / "analysis").glob("*.parquet"))
    assert len(files) == 12
    for file in files:
        assert columns(file) == listed(file.name)


def test_workloads_and_counts(folder: Path) -> None:
    lengths = ("--prompt-tokens", 5, "--output-tokens", 3)
    drawn = folder / "arrivals.parquet"
    run(traces, "arrivals", "poisson", "--rate", 2, "--requests", 4, *lengths, "--out", drawn)
    assert columns(drawn) == listed("traces arrivals --out")
    np.save(folder / "counts.npy", np.ones((32, 8), np.int64))
    out = folder / "counts.parquet"
    run(traces, "convert", "counts", folder / "counts.npy", "--model", "mixtral-8x7b", "--out", out)
    assert columns(out) == listed("traces convert counts --out")


@pytest.mark.parametrize("name", ["comparison/runs.csv", "comparison/flips.csv", "anchors/runs.csv"])
def test_the_tables_behind_documents(name: str) -> None:
    assert set(head(ROOT / "docs" / name)) == listed(name)


def test_the_tables_of_the_paper() -> None:
    found = {name for name in head(ROOT / "docs" / "paper" / "paper_vs_ours.csv") if not name.startswith("ours: ")}
    assert found == listed("paper/paper_vs_ours.csv")
    text = DOCUMENT.read_text(encoding="utf-8").partition("### Tables of the paper's figures")[2]
    rows = re.findall(r"^\| `(\w+)` \| (`.*) \|$", text, re.MULTILINE)
    of_file = {name: re.findall(r"`([^`]+)`", cells) for name, cells in rows}
    files = sorted((ROOT / "docs" / "paper" / "figures").glob("*.csv"))
    assert {file.stem: head(file) for file in files} == {file.stem: of_file.get(file.stem) for file in files}
    explained = set(re.findall(r"`([^`]+)`", text.partition("| column | meaning |")[2]))
    assert {name for file in files for name in head(file)} <= explained
