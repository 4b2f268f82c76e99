"""Anchors from traces to the document, small: what is replayed, what is changed, and what is computed again."""

import csv
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from sim.__main__ import main
from sim.anchors.anchor import Anchor, AnchorPoint, Variation
from sim.anchors.anchor_document import document
from sim.anchors.anchor_runs import run_anchors
from sim.anchors.anchor_table import BASE, AnchorTable
from sim.anchors.anchor_traces import quantised, resized, spread_misses, with_hit_rate
from sim.anchors.published_anchors import IMP, MOE_INFINITY
from sim.anchors.written_anchors import outputs, write_anchors
from sim.scenario import CacheSize, Scenario
from sim.simulation import simulate
from sim.sweeps.workers import Workers
from tests.support.sweep_runs import events
from tests.support.trace_helpers import small_shape, small_trace
from traces.format.reader import Trace

SHAPE = small_shape(layers=4, experts=8)
LARGER = replace(SHAPE, name="larger", hidden=16, expert_ffn=64)

REPLAYED: Anchor = replace(
    MOE_INFINITY,
    shape=LARGER,
    points=(
        AnchorPoint(name="LRU", measured=0.5, policy="lru", cache_experts=12, assumed="nothing"),
        AnchorPoint(name="nothing fits", measured=0.5, policy="lru", cache_experts=10**9, assumed="too much"),
    ),
    variations=(
        Variation(name="quantised", meaning="4 bits", bits=4.0, points=("LRU",)),
        Variation(name="another policy", meaning="LFU", policy="lfu", points=("LRU",)),
    ),
)
MADE: Anchor = replace(
    IMP,
    shape=LARGER,
    points=(
        AnchorPoint(
            name="half", measured=20.0, policy="mixtral-offloading-released", cache_experts=12, hit_rate=0.5, assumed=""
        ),
    ),
    variations=(Variation(name="slow link", meaning="a tenth of the rate", machine="scale.link=0.1"),),
    tokens=32,
)


@pytest.fixture(scope="module")
def routing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("routing") / "small.trace"
    small_trace(path, 8, shape=SHAPE, lookahead=(1,))
    return path


@pytest.fixture(scope="module")
def progress() -> list[str]:
    """The lines of progress that the small run printed."""
    return []


@pytest.fixture(scope="module")
def done(routing: Path, progress: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[AnchorTable, Path]:
    """The table of a small run, and its store."""
    store = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()) as printed:
        patch.setattr("common.progress.LOG_PACE_S", 0)
        patch.delenv("TQDM_DISABLE", raising=False)
        table = run_anchors((REPLAYED, MADE), routing, store=store, workers=Workers(jobs=1))
    progress += printed.getvalue().splitlines()
    return table, store


def test_progress_numbers_the_anchors(done: tuple[AnchorTable, Path], progress: list[str]) -> None:
    running = [line.partition(":")[0] for line in progress if "planning" not in line]
    assert list(dict.fromkeys(running)) == ["anchor 1 of 2", "anchor 2 of 2"]


def test_a_second_run_of_the_anchors_computes_nothing(done: tuple[AnchorTable, Path], routing: Path) -> None:
    table, store = done
    before = events(store)
    assert run_anchors((REPLAYED, MADE), routing, store=store, workers=Workers(jobs=1)) == table
    assert events(store) == before


def test_the_command_prints_a_row_per_measurement_and_writes_the_document(
    done: tuple[AnchorTable, Path],
    routing: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, store = done
    monkeypatch.setattr("sim.anchors.published_anchors.ANCHORS", (REPLAYED, MADE))
    words = ["--routing", str(routing), "--store", str(store), "--jobs", "1", "--out", str(tmp_path)]
    assert main(["anchors", *words]) == 0
    printed = capsys.readouterr().out.splitlines()
    measured = [row for row in table.rows if row["variation"] == BASE]
    assert sum(f"{row['measured']:g} {row['unit']}" in line for line in printed for row in measured) >= len(measured)
    assert printed[-1] == f"wrote {tmp_path / 'anchors.md'}"
    assert all(path.exists() for path in outputs(tmp_path))


def test_files_keep_the_results_of_the_runs(done: tuple[AnchorTable, Path], tmp_path: Path) -> None:
    written = write_anchors(done[0], (REPLAYED, MADE), tmp_path)
    assert all(path.exists() for path in outputs(tmp_path))
    assert written == AnchorTable.read(tmp_path / "anchors")
    assert written.rows == done[0].rows
    assert document(written, (REPLAYED, MADE), beside="anchors") == (tmp_path / "anchors.md").read_text("utf-8")


def test_times_and_errors_follow_from_the_numbers_and_units(done: tuple[AnchorTable, Path], tmp_path: Path) -> None:
    """20 tokens/s are 0.05 s per token; an error is the simulated time divided by the measured one, minus 1."""
    write_anchors(done[0], (REPLAYED, MADE), tmp_path)
    with (tmp_path / "anchors" / "runs.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "done"]
    seconds = {("s per token", "0.5"): 0.5, ("tokens/s", "20.0"): 0.05}
    assert {(row["unit"], row["measured"]) for row in rows} == set(seconds)
    for row in rows:
        measured_s = seconds[row["unit"], row["measured"]]
        assert float(row["measured_s_per_token"]) == pytest.approx(measured_s)
        assert float(row["error"]) * measured_s == pytest.approx(float(row["simulated_s_per_token"]) - measured_s)


def test_a_variation_changes_what_it_says(done: tuple[AnchorTable, Path]) -> None:
    found = {(row["point"], row["variation"]): row for row in done[0].rows}
    base = found["LRU", BASE]
    assert found["LRU", "quantised"]["expert_bytes"] == base["expert_bytes"] / 4
    assert found["LRU", "quantised"]["hit_rate"] == base["hit_rate"]
    assert found["LRU", "another policy"]["policy"] == "lfu"
    assert found["half", "slow link"]["simulated_s_per_token"] > found["half", BASE]["simulated_s_per_token"]


def test_a_refused_run_is_a_dash_with_its_reason(done: tuple[AnchorTable, Path]) -> None:
    row = next(row for row in done[0].rows if row["point"] == "nothing fits")
    assert (row["status"], row["error"]) == ("refused", None)
    text = document(done[0], (REPLAYED, MADE), beside="anchors")
    assert "No run of nothing fits, as assumed: cache.experts" in " ".join(text.split())


def test_a_trace_of_another_model_is_refused_before_anything_runs(tmp_path: Path) -> None:
    small_trace(tmp_path / "other.trace", 3, shape=small_shape(layers=4, experts=6), lookahead=())
    with pytest.raises(UserError, match=r"routing: other.trace has 6 experts per layer, larger has 8"):
        run_anchors((REPLAYED,), tmp_path / "other.trace", store=tmp_path / "store", workers=Workers(jobs=1))


@pytest.mark.parametrize("hit_rate", [0.0, 0.3, 0.75])
@pytest.mark.parametrize("slots", [2, 3, 5])
def test_built_demands_have_the_requested_hit_rate(hit_rate: float, slots: int, tmp_path: Path) -> None:
    path = with_hit_rate(LARGER, hit_rate, 48, tmp_path / "made.trace")
    scenario = Scenario(
        path,
        policy="mixtral-offloading-released",
        machine="rtx3090",
        train_split=0.0,
        cache=CacheSize(experts=slots * LARGER.layers),
    )
    demands = 48 * LARGER.layers * LARGER.top_k
    assert simulate(scenario).summary["hit_rate"] == pytest.approx(round(hit_rate * demands) / demands)


def test_a_hit_rate_that_a_cold_cache_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10 tokens cannot have a hit rate of 0.99"):
        spread_misses(LARGER, 0.99, 10)


def test_other_sizes_do_not_change_the_routing(routing: Path, tmp_path: Path) -> None:
    before = Trace.open(routing)
    after = Trace.open(resized(before, quantised(LARGER, 3.0, unpacked=True), tmp_path / "resized.trace"))
    assert after.shape.layer_expert_bytes == (3 * 16 * 64 * 3 // 8,) * 4
    assert after.request_ids == before.request_ids
    for one, other in zip(before.iter(), after.iter(), strict=True):
        assert np.array_equal(one.experts, other.experts)
        assert np.array_equal(one.lookahead[1], other.lookahead[1])


def test_weights_that_are_not_unpacked_are_read_as_they_are_copied() -> None:
    assert quantised(LARGER, 4.0, unpacked=False).weight_bytes == 0.5
    assert quantised(LARGER, 4.0, unpacked=True).weight_bytes == LARGER.weight_bytes
    assert quantised(LARGER, 16.0, unpacked=True) == LARGER
