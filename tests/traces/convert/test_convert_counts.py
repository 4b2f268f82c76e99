"""Counts of serving engines become a table, which experts are placed by."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from policies.cache.placement import balanced
from sim.__main__ import main as sim
from sim.inputs import train_test_split
from sim.scenario import Scenario
from tests.support.convert_helpers import MODEL, SHAPE, reported
from tests.support.run_helpers import arguments
from tests.support.trace_helpers import small_trace
from traces.__main__ import main
from traces.analysis.expert_counts import read_counts
from traces.format.reader import Trace

# Two steps of 3 layers and 6 experts, by hand.
STEPS = np.array(
    [
        [[4, 0, 0, 2, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 6]],
        [[1, 0, 3, 0, 0, 0], [0, 0, 0, 0, 2, 2], [1, 0, 0, 0, 3, 0]],
    ]
)
SUMS = [[5, 0, 3, 2, 0, 0], [1, 1, 1, 1, 3, 3], [1, 0, 0, 0, 3, 6]]


def convert(file: Path, *more: str, out: str = "counts.parquet") -> int:
    return main(["convert", "counts", str(file), *MODEL, "--out", str(file.parent / out), *more])


def save(file: Path, counts: Any) -> Path:
    if file.suffix == ".npz":
        np.savez(file, logical_count=counts, rank=np.array(0))
    elif file.suffix == ".json":
        file.write_text(json.dumps({"counts": np.asarray(counts).tolist(), "model": "x"}))
    else:
        np.save(file, counts)
    return file


@pytest.mark.parametrize("counts", [STEPS, SUMS, STEPS.astype(np.float32)], ids=["steps", "sums", "float"])
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.json"])
def test_steps_are_added_up(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, counts: Any) -> None:
    assert convert(save(tmp_path / name, counts)) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path}/counts.parquet\n"
    # 5 of 10/6, 3 of 10/6 and 6 of 10/6
    assert captured.err == "30 executions; a layer's busiest expert has 2.80 × the mean load\n"
    assert read_counts(tmp_path / "counts.parquet", SHAPE).tokens.tolist() == SUMS
    table = pd.read_parquet(tmp_path / "counts.parquet")
    assert table.columns.tolist() == ["layer", "expert", "tokens", "token_share"]
    assert table.loc[2].tolist() == [0, 2, 3, 0.3]


needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


@needs_torch
def test_the_dumps_of_sglang(tmp_path: Path) -> None:
    import torch

    dump = {"rank": 0, "logical_count": torch.tensor(STEPS, dtype=torch.int32)}
    torch.save(dump | {"average_utilization_rate_over_window": None}, tmp_path / "stat.pt")
    assert convert(tmp_path / "stat.pt") == 0
    assert read_counts(tmp_path / "counts.parquet", SHAPE).tokens.tolist() == SUMS

    # Eight physical experts: logical expert 0 has copies at 0 and 6, logical expert 4 at 4 and 7.
    mapping = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 4]] * 3)
    records = []
    for step in STEPS:
        physical = np.concatenate([step, np.zeros((3, 2), int)], axis=1)
        for logical, copy in ((0, 6), (4, 7)):  # each copy took half
            physical[:, copy] = physical[:, logical] // 2
            physical[:, logical] -= physical[:, copy]
        records.append({"forward_pass_id": 1, "rank": 0, "global_physical_count": torch.tensor(physical)})
    torch.save({"records": records, "last_physical_to_logical_map": mapping}, tmp_path / "pass.pt")
    assert convert(tmp_path / "pass.pt", "--overwrite") == 0
    assert read_counts(tmp_path / "counts.parquet", SHAPE).tokens.tolist() == SUMS


@needs_torch
def test_a_dump_that_would_execute_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    torch.save({"logical_count": Path("x")}, tmp_path / "bad.pt")
    assert "bad.pt: cannot be read: it is no PyTorch file, or holds more than tensors" in reported(
        capsys, lambda: convert(tmp_path / "bad.pt")
    )
    torch.save({"other": torch.zeros(1)}, tmp_path / "bad.pt")
    line = reported(capsys, lambda: convert(tmp_path / "bad.pt"))
    assert line == f"{tmp_path}/bad.pt: has neither logical_count nor records; it has other"
    records = [{"global_physical_count": torch.zeros(3, 7)}]
    torch.save({"records": records, "last_physical_to_logical_map": torch.zeros(3, 6).long()}, tmp_path / "bad.pt")
    assert "records must have global_physical_count" in reported(capsys, lambda: convert(tmp_path / "bad.pt"))


def test_without_torch_a_dump_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "traces.convert.sglang_records", raising=False)
    (tmp_path / "a.pt").touch()
    line = reported(capsys, lambda: convert(tmp_path / "a.pt"))
    assert line == f"{tmp_path}/a.pt: reading it needs torch: pip install 'finemoe-lab[models]'"


def test_dense_layers_before_the_first_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "a.npy", [[0] * 6, *SUMS])
    line = reported(capsys, lambda: convert(file))
    assert line == f"{file}: must have 3 layers and 6 experts for small, not 4 and 6"
    assert convert(file, "--first-layer", "1") == 0
    assert read_counts(tmp_path / "counts.parquet", SHAPE).tokens.tolist() == SUMS


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        (
            np.full((3, 6), 0.5),
            "must be whole numbers [steps, layers, experts] or [layers, experts], not float64 [3, 6]",
        ),
        (np.full((3, 6), np.inf), "counts must be from 0 to "),
        (np.full((3, 6), np.nan), "must be whole numbers "),
        (np.full((3, 6), 2**63, np.uint64), "counts must be from 0 to "),
        (np.full((3, 6), -1), "counts must be from 0 to "),
        (np.ones(6, int), "must be whole numbers "),
        (np.array([["a"]]), "must be whole numbers "),
        (np.ones((3, 7), int), "must have 3 layers and 6 experts for small, not 3 and 7"),
        (np.array(SUMS) * [[1], [0], [1]], "layer 1 has no counts; if it is dense, set --first-layer"),
    ],
)
def test_what_are_no_counts_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], counts: Any, line: str
) -> None:
    file = save(tmp_path / "a.npy", counts)
    assert reported(capsys, lambda: convert(file)).startswith(f"{file}: {line}")
    assert [each.name for each in tmp_path.iterdir()] == ["a.npy"]


def test_mistakes_with_files_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "a.npy", SUMS)
    assert reported(capsys, lambda: convert(file, out="b.trace")) == (
        f"--out: must be a name that ends in .parquet, not {tmp_path}/b.trace"
    )
    assert convert(file) == 0
    assert reported(capsys, lambda: convert(file)).endswith(
        "exists already; choose another name, or replace it with --overwrite"
    )
    assert convert(file, "--overwrite") == 0
    (tmp_path / "b.json").write_text('{"x": [1], "y": [2]}')
    line = reported(capsys, lambda: convert(tmp_path / "b.json", "--overwrite"))
    assert line == f"{tmp_path}/b.json: field logical_count: is missing; it has x, y"
    (tmp_path / "b.json").write_text("[[1, 2], [3]]")
    assert "is not a nested JSON list" in reported(capsys, lambda: convert(tmp_path / "b.json", "--overwrite"))
    assert "no.npy: does not exist" in reported(capsys, lambda: convert(tmp_path / "no.npy", "--overwrite"))
    (tmp_path / "text.npy").write_text("no array")
    assert reported(capsys, lambda: convert(tmp_path / "text.npy", "--overwrite")).endswith(
        "text.npy: is not a NumPy array: it contains Python objects, or is another kind of file"
    )
    (tmp_path / "folder.npy").mkdir()
    assert reported(capsys, lambda: convert(tmp_path / "folder.npy", "--overwrite")).endswith(
        "folder.npy: is not a file"
    )


# ---- placing by them -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decode steps only, so that tokens and demands are the same."""
    return small_trace(
        tmp_path_factory.mktemp("recorded") / "test.trace",
        10,
        shape=SHAPE,
        prefill=False,
        gate_complete=False,
        lookahead=(),
    )


def simulated(capsys: pytest.CaptureFixture[str], trace: Path, *more: Any) -> Any:
    assert sim(arguments(trace, "--cache-experts", 9, "--json", "--check", *more, policies=("lru",))) == 0
    return json.loads(capsys.readouterr().out)


def test_the_history_s_own_counts_place_as_the_history_does(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Trace.open(trace)
    train, _ = train_test_split(opened.request_ids, Scenario(opened.path), where="")
    counts = np.zeros((3, 6), int)
    for recorded in opened.iter(train):
        for layers in recorded.experts.tolist():
            for layer, experts in enumerate(layers):
                counts[layer, experts] += 1
    convert(save(tmp_path / "a.npy", counts))
    capsys.readouterr()
    by_counts = simulated(capsys, trace, "--placement", "balanced", "--counts", tmp_path / "counts.parquet")
    assert by_counts == simulated(capsys, trace, "--placement", "balanced")
    # … and without any history too, where the placement by it is refused.
    alone = simulated(
        capsys, trace, "--placement", "balanced", "--train-split", 0, "--counts", tmp_path / "counts.parquet"
    )
    assert alone[0]["distinct_demands"] > by_counts[0]["distinct_demands"]


def test_other_counts_place_otherwise_and_the_results_name_them(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(save(tmp_path / "a.npy", SUMS))
    homes = []
    import sim.started_policy as started

    place = started.place
    monkeypatch.setattr(started, "place", lambda *given: homes.append(place(*given)) or homes[-1])  # type: ignore[func-returns-value]
    options = ["--placement", "balanced", "--counts", tmp_path / "counts.parquet", "--out", tmp_path / "results"]
    capsys.readouterr()
    simulated(capsys, trace, *options)
    assert homes[0].tolist() == balanced(np.array(SUMS), 6).tolist()
    run, *_ = json.loads((tmp_path / "results" / "meta.json").read_text())["runs"]
    assert run["provenance"]["counts_sha256"] == read_counts(tmp_path / "counts.parquet", SHAPE).sha256


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda table: table.drop(columns="tokens"), "field tokens: is missing"),
        (lambda table: table.iloc[:-1], "must have one row for each of the 18 experts of small, not 17 rows for 17"),
        (lambda table: table.assign(expert=table["expert"] * 2), "row 3, field expert: must be from 0 to 5 for small"),
        (lambda table: table.assign(tokens=table["tokens"] - 1), "row 1, field tokens: must be at least 0, not -1"),
        (lambda table: table.assign(tokens=table["tokens"] / 2), "field tokens: must be whole numbers, not float64"),
        (lambda table: table.assign(expert=0), "must have one row for each of the 18 experts of small, not 18 rows"),
        (lambda table: table.iloc[:0], "has no row"),
    ],
)
def test_a_table_of_another_shape_is_reported(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str], change: Any, line: str
) -> None:
    convert(save(tmp_path / "a.npy", SUMS))
    file = tmp_path / "counts.parquet"
    change(pd.read_parquet(file)).to_parquet(file)
    options = ["--placement", "balanced", "--counts", file]
    found = reported(capsys, lambda: sim(arguments(trace, *options, policies=("lru",))))
    assert found.startswith(f"{file}: {line}")


def test_counts_without_the_placement_that_uses_them_are_refused(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = reported(capsys, lambda: sim(arguments(trace, "--counts", tmp_path / "x", policies=("lru",))))
    assert line == "--counts: needs --placement balanced, not round-robin"
    options = ["--placement", "balanced", "--counts", tmp_path / "x"]
    assert "x: does not exist" in reported(capsys, lambda: sim(arguments(trace, *options, policies=("lru",))))
