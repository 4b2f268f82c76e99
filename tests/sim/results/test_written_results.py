"""What `finemoe sim run --out` writes."""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from policies.cache.decision_log import LoggedCall
from sim.__main__ import main
from sim.engine.time_split import PARTS
from sim.hardware.profile import write_profile
from tests.support.profiles import flat_profile
from tests.support.run_helpers import (
    ITERATIONS_OF_A_REQUEST,
    NO_REFERENCES,
    POLICIES,
    SHAPE,
    arguments,
    frames,
)
from tests.support.trace_helpers import content

Written = tuple[dict[str, dict[str, Any]], Path]


def logging(trace: Path, out: Path) -> list[str]:
    """The command with the decision log."""
    return arguments(trace, "--out", out, "--detail", "events", "--json")


@pytest.fixture(scope="module")
def printed(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The command with the decision log, run once: what it prints, and the folder of results."""
    out = tmp_path_factory.mktemp("logged") / "results"
    with redirect_stdout(StringIO()) as text:
        assert main(logging(trace, out)) == 0
    return text.getvalue(), out


@pytest.fixture
def logged(printed: tuple[str, Path]) -> Written:
    """The same, with the JSON of each policy."""
    text, out = printed
    return {each["policy"]: each for each in json.loads(text)}, out


def test_pandas_opens_the_same_numbers_that_json_gives(written: Written) -> None:
    found, out = written
    summary = frames(out)["summary"]
    assert summary["policy"].tolist() == list(POLICIES)
    for _, row in summary.iterrows():
        for key, value in found[row["policy"]].items():
            assert pd.isna(row[key]) if value is None else row[key] == value, key


def test_the_summary_follows_from_the_rows(written: Written) -> None:
    found, out = written
    tables = frames(out)
    for policy, requests in tables["requests"].groupby("policy"):
        each = found[policy]
        assert each["ttft_s_mean"] == pytest.approx(requests["ttft_s"].mean(), rel=1e-12)
        assert each["tpot_s_mean"] == pytest.approx(requests["tpot_s"].mean(), rel=1e-12)
        assert each["tpot_s_p50"] == pytest.approx(requests["tpot_s"].median(), rel=1e-12)
        assert each["tpot_s_p95"] == pytest.approx(requests["tpot_s"].quantile(0.95), rel=1e-12)
        assert each["bytes_per_token"] == pytest.approx(each["copied_bytes"] / requests["output_tokens"].sum())
    for policy, iterations in tables["iterations"].groupby("policy"):
        each = found[policy]
        for key, some in (
            ("hit_rate", iterations),
            ("hit_rate_prefill", iterations[iterations["prefill"]]),
            ("hit_rate_decode", iterations[~iterations["prefill"]]),
        ):
            demands = some[["hits", "late", "misses"]].to_numpy().sum()
            assert each[key] == some["hits"].sum() / demands, key
            assert each[key.replace("hit", "hit_or_late")] == (some["hits"] + some["late"]).sum() / demands, key
        assert each["late_rate"] * each["distinct_demands"] == pytest.approx(iterations["late"].sum())
        assert each["miss_rate"] * each["distinct_demands"] == pytest.approx(iterations["misses"].sum())
        assert each["makespan_s"] >= iterations["end_s"].max()
        assert each["copied_bytes_decode"] == iterations.loc[~iterations["prefill"], "copied_bytes"].sum()
        for phase, some in (
            ("prefill", iterations[iterations["prefill"]]),
            ("decode", iterations[~iterations["prefill"]]),
        ):
            parts = [each[f"{phase}_{part}"] for part in PARTS]
            assert parts == pytest.approx(some[list(PARTS)].mean().tolist(), rel=1e-12)
            assert sum(parts) == pytest.approx((some["end_s"] - some["start_s"]).mean(), rel=1e-12)
        assert each["prefills"] == iterations["prefill"].sum()


def test_hits_late_and_misses_are_counted_exactly(written: Written) -> None:
    found, out = written
    for policy, iterations in frames(out)["iterations"].groupby("policy"):
        for key in ("hits", "late", "misses"):
            assert found[policy][key] == iterations[key].sum()


def test_every_row_says_that_it_was_simulated(written: Written) -> None:
    found, out = written
    assert {each["simulated"] for each in found.values()} == {True}
    assert frames(out)["summary"]["simulated"].dtype == bool


def test_a_request_takes_its_first_token_and_then_the_others(written: Written) -> None:
    requests = frames(written[1])["requests"]
    np.testing.assert_allclose(
        requests["latency_s"], requests["ttft_s"] + requests["tpot_s"] * (requests["output_tokens"] - 1), rtol=1e-9
    )
    np.testing.assert_allclose(requests["latency_s"], requests["end_s"] - requests["start_s"], rtol=1e-12)


def test_results_are_tidy(written: Written) -> None:
    """A row per policy and request or iteration, numbers in columns that say their unit."""
    tables = frames(written[1])
    assert sorted(tables) == ["iterations", "requests", "summary"]
    assert not tables["requests"].duplicated(["policy", "request"]).any()
    assert not tables["iterations"].duplicated(["policy", "iteration"]).any()
    assert len(tables["requests"]) == len(POLICIES) * 3
    assert len(tables["iterations"]) == len(POLICIES) * 3 * ITERATIONS_OF_A_REQUEST
    for table in tables.values():
        assert isinstance(table.index, pd.RangeIndex)
        assert table.columns[0] == "policy"
        floats = [name for name in table.columns if table[name].dtype == float]
        told = ("_s", "_s_mean", "_s_p50", "_s_p95", "_rate", "_rate_prefill", "_rate_decode", "_per_token")
        told += ("_s_per_iteration",)
        shares = ("prefetch_", "search_score_", "tpot_over_", "trace_")
        assert all(name.endswith(told) or name.startswith(shares) for name in floats), floats


@pytest.mark.parametrize(
    ("detail", "files"),
    [
        ("requests", {"summary", "requests"}),
        ("iterations", {"summary", "requests", "iterations"}),
        ("events", {"summary", "requests", "iterations", "events"}),
    ],
)
def test_detail_says_how_fine_the_rows_are(simulate: Any, trace: Path, out: Path, detail: str, files: set[str]) -> None:
    simulate(trace, "--out", out, "--detail", detail, *NO_REFERENCES, policies=("lru",))
    assert {file.name for file in out.iterdir()} == {f"{name}.parquet" for name in files} | {"meta.json"}


def test_events_are_the_decision_log(logged: Written) -> None:
    found, out = logged
    events = frames(out)["events"]
    assert events.columns.tolist() == ["policy", *LoggedCall._fields]
    for policy, rows in events.groupby("policy"):
        demands = rows[rows["call"] == "demand"]
        assert len(demands) == found[policy]["iterations"] * SHAPE.layers
        assert sum(len(experts) for experts in demands["experts"]) == found[policy]["distinct_demands"]
        assert rows["time_s"].is_monotonic_increasing
        began = rows[(rows["call"] == "next_copy") & (rows["slot"] >= 0)]
        assert len(began) == found[policy]["copies"]
    assert set(events["policy"]) == set(POLICIES)


def test_metadata_is_in_every_table_and_in_meta_json(logged: Written) -> None:
    _, out = logged
    beside = json.loads((out / "meta.json").read_text())
    del beside["files"], beside["sha256"]  # a file cannot hold its own hash
    for file in out.glob("*.parquet"):
        assert json.loads(pq.read_schema(file).metadata[b"finemoe_lab"]) == beside


def test_meta_names_the_inputs_by_their_hashes_and_holds_the_settings(simulate: Any, trace: Path, out: Path) -> None:
    more = ["--machine", "rtx3090", "--cache-experts", 9, "--batch-size", 2, "--seed", 5, "--train-split", 0.5]
    simulate(trace, "--out", out, *NO_REFERENCES, *more)
    meta = json.loads((out / "meta.json").read_text())
    assert len(meta["runs"]) == len(POLICIES)
    for run in meta["runs"]:
        inputs, scenario = run["provenance"], run["scenario"]
        assert run["summary"]["simulated"] is True
        assert inputs["trace"]["name"] == "small.trace"
        assert inputs["trace"]["digest"] == json.loads((trace / "meta.json").read_text())["sha256"]
        assert (inputs["machine"]["name"], inputs["machine"]["gpus"], inputs["cache_experts"]) == ("rtx3090", 1, 9)
        expected = {"machine": "rtx3090", "batch_size": 2, "seed": 5, "train_split": 0.5, "cache": {"experts": 9}}
        assert {key: scenario[key] for key in expected} == expected
        sizes = {"layers": 4, "experts": 8, "top_k": 2, "hidden": 4, "expert_ffn": 8, "vocab": 40, "weight_bytes": 2.0}
        assert {key: inputs["model"][key] for key in sizes} == sizes


def test_meta_names_a_profile_by_its_hash(simulate: Any, trace: Path, tmp_path: Path) -> None:
    profile = tmp_path / "a.toml"
    write_profile(profile, flat_profile(SHAPE))
    simulate(trace, "--out", tmp_path / "results", "--machine", profile, *NO_REFERENCES, policies=("lru",))
    run, *_ = json.loads((tmp_path / "results" / "meta.json").read_text())["runs"]
    found = run["provenance"]["machine"]
    assert (found["name"], found["gpus"]) == ("flat", 1)
    assert found["digest"] == hashlib.sha256(profile.read_bytes()).hexdigest()


STATED = pytest.mark.slow  # its value is looked up in the test of inputs and settings above


@pytest.fixture(scope="module")
def noted(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What is noted of a run without further settings."""
    out = tmp_path_factory.mktemp("plain") / "results"
    assert main(arguments(trace, "--out", out, *NO_REFERENCES, policies=("lru",))) == 0
    return json.loads((out / "meta.json").read_text())


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(("--seed", 1), id="seed", marks=STATED),
        pytest.param(("--train-split", 0.6), id="train-split", marks=STATED),
        pytest.param(("--batch-size", 2), id="batch-size", marks=STATED),
        pytest.param(("--placement", "balanced"), id="placement"),
        pytest.param(("--replicas", 2), id="replicas"),
        pytest.param(("--machine", "paper-a100"), id="hardware", marks=STATED),
        pytest.param(("--cache-experts", 9), id="cache-experts", marks=STATED),
        pytest.param(("--sizes", "mixtral-8x7b"), id="as"),
        pytest.param(("--requests", 2), id="requests"),
        pytest.param(("--policy", "oracle"), id="policy"),
        pytest.param(("--check",), id="check"),
        pytest.param(("--detail", "requests"), id="detail"),
    ],
)
def test_meta_holds_every_setting(simulate: Any, trace: Path, noted: Any, out: Path, setting: tuple[Any, ...]) -> None:
    simulate(trace, "--out", out, *NO_REFERENCES, *setting, policies=("lru",))
    assert json.loads((out / "meta.json").read_text()) != noted


def test_the_same_command_gives_the_same_bytes(trace: Path, printed: tuple[str, Path], out: Path) -> None:
    """Also in an interpreter of its own, whose sets and dictionaries of text are in another order."""
    text, here = printed
    done = subprocess.run(
        [sys.executable, "-m", "sim", *logging(trace, out)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == text
    assert {each["policy"] for each in json.loads(text)} == set(POLICIES)
    assert content(out) == content(here)


def test_a_policys_row_does_not_depend_on_other_policies(simulate: Any, trace: Path) -> None:
    """Nor on their order."""
    alone = {name: simulate(trace, "--references", "no-offload", policies=(name,))[name] for name in POLICIES}
    assert simulate(trace, "--references", "no-offload", policies=POLICIES[::-1]) == alone
