"""`python -m sim run`: what it prints and writes, and what it says to a mistake."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from broken_traces import BROKEN
from trace_helpers import change_values, content, small_shape, small_trace

from policies.base import NAMED, Policy, Prefetcher
from policies.classic import LeastRecentlyUsed
from policies.decision_log import DecisionLog
from policies.invariants import InvariantChecker
from sim.__main__ import main
from sim.simulation import slots_for
from traces.models import PUBLISHED, published

SHAPE = small_shape(layers=4, experts=8)  # 32 experts of 3·4·8 weights of 2 bytes
EXPERT_BYTES = 192
ITERATIONS_OF_A_REQUEST = 4  # a prefill of 5 tokens and 3 decoded
POLICIES = ("finemoe", "lru", "oracle", "no-offload")

REQUIRED = {
    "policy",
    "ttft_s_mean",
    "tpot_s_mean",
    "tpot_s_p50",
    "tpot_s_p95",
    "hit_rate",
    "hit_rate_prefill",
    "hit_rate_decode",
    "late_rate",
    "miss_rate",
    "distinct_demands",
    "bytes_per_token",
    "expert_memory_bytes",
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten requests with prefill, embeddings and lookahead; seven to learn from and three to simulate."""
    return small_trace(tmp_path_factory.mktemp("trace") / "small.trace", 10, shape=SHAPE)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without prefill or embeddings."""
    folder = tmp_path_factory.mktemp("decoded")
    return small_trace(folder / "decoded.trace", 10, shape=SHAPE, prefill=False, embedding=False)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results"


def arguments(trace: Path, *more: Any, policies: tuple[str, ...] = POLICIES) -> list[str]:
    return ["run", str(trace), *[word for name in policies for word in ("--policy", name)], *map(str, more)]


@pytest.fixture
def simulate(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command with `--json`; the answer is the object of each policy."""

    def run(trace: Path, *more: Any, policies: tuple[str, ...] = POLICIES) -> dict[str, dict[str, Any]]:
        assert main(arguments(trace, "--json", *more, policies=policies)) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return {each["policy"]: each for each in json.loads(captured.out)}

    return run


def frames(out: Path) -> dict[str, pd.DataFrame]:
    return {file.stem: pd.read_parquet(file) for file in sorted(out.glob("*.parquet"))}


def rows_of(trace: Path, requests: set[int]) -> list[dict[str, Any]]:
    """Rows of `tokens.parquet`, read without the project's reader."""
    columns = ["request", "iteration", "experts"]
    return [
        row
        for row in pq.read_table(trace / "tokens.parquet", columns=columns).to_pylist()
        if row["request"] in requests
    ]


def demands_of(trace: Path, groups: list[list[int]]) -> int:
    """Distinct (group, iteration, layer, expert), the requests of a group running together."""
    group = {request: number for number, requests in enumerate(groups) for request in requests}
    return len(
        {
            (group[row["request"]], row["iteration"], place // SHAPE.top_k, expert)
            for row in rows_of(trace, set(group))
            for place, expert in enumerate(row["experts"])
        }
    )


# ---- what comes out --------------------------------------------------------------------------------------------------


def test_json_has_an_object_per_policy_in_the_order_given(simulate: Any, trace: Path) -> None:
    found = simulate(trace, policies=("oracle", "lru", "finemoe"))
    assert list(found) == ["oracle", "lru", "finemoe"]
    assert all(each.keys() >= REQUIRED for each in found.values())


def test_a_policy_named_twice_is_run_once(simulate: Any, trace: Path) -> None:
    assert list(simulate(trace, policies=("lru", "oracle", "lru"))) == ["lru", "oracle"]


def test_settings_of_a_policy_make_another_row(simulate: Any, trace: Path) -> None:
    found = simulate(trace, policies=("finemoe", "finemoe,capacity=2,prefetch_distance=1,learn=false"))
    assert list(found) == ["finemoe", "finemoe,capacity=2,prefetch_distance=1,learn=false"]


def test_times_are_positive_seconds_and_shares_are_of_one(simulate: Any, trace: Path) -> None:
    for each in simulate(trace).values():
        assert 0 < each["tpot_s_p50"] <= each["tpot_s_p95"] < 1
        assert 0 < each["ttft_s_p50"] <= each["ttft_s_p95"] < 1
        assert each["hit_rate"] + each["late_rate"] + each["miss_rate"] == pytest.approx(1)
        assert all(0 <= each[key] <= 1 for key in each if "rate" in key)
        assert each["tpot_over_no_offload"] >= 1 - 1e-12


def test_no_offload_hits_always_and_moves_nothing(simulate: Any, trace: Path) -> None:
    found = simulate(trace)["no-offload"]
    assert (found["hit_rate"], found["late_rate"], found["miss_rate"], found["bytes_per_token"]) == (1, 0, 0, 0)
    assert (found["hit_rate_prefill"], found["hit_rate_decode"]) == (1, 1)
    assert found["tpot_over_no_offload"] == 1
    assert found["expert_memory_bytes"] == 32 * EXPERT_BYTES


def test_distance_from_no_offload_is_a_ratio_of_two_rows_and_needs_not_both(simulate: Any, trace: Path) -> None:
    both, alone = simulate(trace), simulate(trace, policies=("lru",))
    ratio = both["lru"]["tpot_s_mean"] / both["no-offload"]["tpot_s_mean"]
    assert both["lru"]["tpot_over_no_offload"] == pytest.approx(ratio, rel=1e-12)
    assert alone["lru"] == both["lru"]


def test_what_was_never_prefetched_has_no_outcome(simulate: Any, trace: Path) -> None:
    found = simulate(trace)
    assert found["lru"]["prefetched_copies"] == 0
    assert found["lru"]["prefetch_useful"] is None


def test_a_prefetched_copy_is_useful_late_wasted_cancelled_or_still_unused_at_the_end(
    simulate: Any, trace: Path
) -> None:
    found = simulate(trace)["finemoe"]
    prefetched = found["prefetched_copies"]
    ended = sum(found[f"prefetch_{what}"] * prefetched for what in ("useful", "late", "wasted", "cancelled"))
    assert 0 < ended < prefetched + 0.5
    assert prefetched - ended < found["expert_slots"] + 0.5


def test_peak_memory_is_that_of_the_slots_taken(simulate: Any, trace: Path) -> None:
    for each in simulate(trace, "--cache-experts", 8, policies=("finemoe", "lru", "oracle")).values():
        assert each["expert_memory_bytes"] == 8 * EXPERT_BYTES  # far more experts are demanded than fit


@pytest.mark.parametrize("hardware", ["rtx3090", "rtx3090x6"])
def test_without_prefill_ttft_is_null(simulate: Any, decoded: Path, hardware: str) -> None:
    for each in simulate(decoded, "--hardware", hardware).values():
        assert [each[key] for key in ("ttft_s_mean", "ttft_s_p50", "ttft_s_p95", "hit_rate_prefill")] == [None] * 4
        assert each["tpot_s_mean"] > 0
        assert each["hit_rate_decode"] == each["hit_rate"]


def test_distinct_demands_are_counted_from_the_file(simulate: Any, trace: Path, out: Path) -> None:
    found = simulate(trace, "--out", out)
    simulated = sorted(set(frames(out)["requests"]["request"]))
    assert len(simulated) == 3
    expected = demands_of(trace, [[request] for request in simulated])
    assert {each["distinct_demands"] for each in found.values()} == {expected}


def test_requests_of_a_batch_demand_an_expert_once(simulate: Any, trace: Path, out: Path) -> None:
    found = simulate(trace, "--batch-size", 2, "--out", out)
    first, second, third = sorted(set(frames(out)["requests"]["request"]))
    expected = demands_of(trace, [[first, second], [third]])
    assert {each["distinct_demands"] for each in found.values()} == {expected}
    assert {each["iterations"] for each in found.values()} == {2 * ITERATIONS_OF_A_REQUEST}


@pytest.mark.parametrize(("share", "left"), [(0, 10), (0.5, 5), (0.7, 3), (0.9, 1)])
def test_the_split_leaves_the_rest_to_simulate(simulate: Any, trace: Path, share: float, left: int) -> None:
    for each in simulate(trace, "--train-split", share).values():
        assert (each["requests"], each["iterations"]) == (left, left * ITERATIONS_OF_A_REQUEST)
        assert each["output_tokens"] == left * ITERATIONS_OF_A_REQUEST  # the prefill gives one, each decode one


def test_the_seed_draws_the_split(simulate: Any, trace: Path, tmp_path: Path) -> None:
    simulated = []
    for seed in range(3):
        simulate(trace, "--seed", seed, "--out", tmp_path / str(seed), policies=("lru",))
        simulated.append(frames(tmp_path / str(seed))["requests"]["request"].tolist())
    assert all(requests == sorted(requests) for requests in simulated)
    assert len({tuple(requests) for requests in simulated}) > 1


def test_fewer_requests_are_the_first_of_them(simulate: Any, trace: Path, tmp_path: Path) -> None:
    simulate(trace, "--out", tmp_path / "all", policies=("lru",))
    simulate(trace, "--out", tmp_path / "two", "--requests", 2, policies=("lru",))
    every, two = (frames(tmp_path / name)["requests"] for name in ("all", "two"))
    pd.testing.assert_frame_equal(two, every.iloc[:2])


# ---- the results on disk ---------------------------------------------------------------------------------------------


def test_pandas_opens_the_same_numbers_that_json_gives(simulate: Any, trace: Path, out: Path) -> None:
    found = simulate(trace, "--out", out)
    summary = frames(out)["summary"]
    assert summary["policy"].tolist() == list(POLICIES)
    for _, row in summary.iterrows():
        for key, value in found[row["policy"]].items():
            assert pd.isna(row[key]) if value is None else row[key] == value, key


def test_the_summary_follows_from_the_rows(simulate: Any, trace: Path, out: Path) -> None:
    found = simulate(trace, "--out", out)
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
            assert each[key] == some["hits"].sum() / some[["hits", "late", "misses"]].to_numpy().sum(), key
        assert each["late_rate"] * each["distinct_demands"] == pytest.approx(iterations["late"].sum())
        assert each["miss_rate"] * each["distinct_demands"] == pytest.approx(iterations["misses"].sum())
        assert each["makespan_s"] >= iterations["end_s"].max()


def test_a_request_takes_its_first_token_and_then_the_others(simulate: Any, trace: Path, out: Path) -> None:
    simulate(trace, "--out", out)
    requests = frames(out)["requests"]
    np.testing.assert_allclose(
        requests["latency_s"], requests["ttft_s"] + requests["tpot_s"] * (requests["output_tokens"] - 1), rtol=1e-9
    )
    np.testing.assert_allclose(requests["latency_s"], requests["end_s"] - requests["start_s"], rtol=1e-12)


def test_results_are_tidy(simulate: Any, trace: Path, out: Path) -> None:
    """A row per policy and request or iteration, numbers in columns that say their unit."""
    simulate(trace, "--out", out)
    tables = frames(out)
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
        assert all(name.endswith(told) or name.startswith(("prefetch_", "tpot_over_")) for name in floats), floats


@pytest.mark.parametrize(
    ("detail", "files"),
    [
        ("requests", {"summary", "requests"}),
        ("iterations", {"summary", "requests", "iterations"}),
        ("events", {"summary", "requests", "iterations", "events"}),
    ],
)
def test_detail_says_how_fine_the_rows_are(simulate: Any, trace: Path, out: Path, detail: str, files: set[str]) -> None:
    simulate(trace, "--out", out, "--detail", detail, policies=("lru",))
    assert {file.name for file in out.iterdir()} == {f"{name}.parquet" for name in files} | {"meta.json"}


def test_events_are_the_decision_log(simulate: Any, trace: Path, out: Path) -> None:
    found = simulate(trace, "--out", out, "--detail", "events")
    events = frames(out)["events"]
    assert events.columns.tolist() == ["policy", *DecisionLog.COLUMNS]
    for policy, rows in events.groupby("policy"):
        demands = rows[rows["call"] == "demand"]
        assert len(demands) == found[policy]["iterations"] * SHAPE.layers
        assert sum(len(experts) for experts in demands["experts"]) == found[policy]["distinct_demands"]
        assert rows["time_s"].is_monotonic_increasing
        began = rows[(rows["call"] == "next_copy") & (rows["layer"] >= 0)]
        assert len(began) == found[policy]["copies"]
    assert set(events["policy"]) == set(POLICIES)


def test_meta_stands_in_every_file_and_beside_them(simulate: Any, trace: Path, out: Path) -> None:
    simulate(trace, "--out", out, "--detail", "events")
    beside = json.loads((out / "meta.json").read_text())
    for file in out.glob("*.parquet"):
        assert json.loads(pq.read_schema(file).metadata[b"finemoe_lab"]) == beside


def test_meta_names_the_inputs_by_their_hashes_and_holds_the_settings(simulate: Any, trace: Path, out: Path) -> None:
    more = ["--hardware", "rtx3090", "--cache-experts", 9, "--batch-size", 2, "--seed", 5, "--train-split", 0.5]
    simulate(trace, "--out", out, *more)
    meta = json.loads((out / "meta.json").read_text())
    assert meta["simulated"] is True
    assert meta["trace"] == "small.trace"
    assert meta["trace_digest"] == json.loads((trace / "meta.json").read_text())["sha256"]
    expected = {"hardware": "rtx3090", "gpus": 1, "cache_experts": 9, "batch_size": 2, "seed": 5, "train_split": 0.5}
    assert {key: meta[key] for key in expected} == expected
    sizes = {"layers": 4, "experts": 8, "top_k": 2, "hidden": 4, "expert_ffn": 8, "vocab": 40, "weight_bytes": 2.0}
    assert {key: meta["model"][key] for key in sizes} == sizes


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(("--seed", 1), id="seed"),
        pytest.param(("--train-split", 0.6), id="train-split"),
        pytest.param(("--batch-size", 2), id="batch-size"),
        pytest.param(("--hardware", "a100"), id="hardware"),
        pytest.param(("--cache-experts", 9), id="cache-experts"),
        pytest.param(("--as", "mixtral-8x7b"), id="as"),
        pytest.param(("--requests", 2), id="requests"),
        pytest.param(("--policy", "oracle"), id="policy"),
        pytest.param(("--check",), id="check"),
        pytest.param(("--detail", "requests"), id="detail"),
    ],
)
def test_meta_holds_every_setting(simulate: Any, trace: Path, tmp_path: Path, setting: tuple[Any, ...]) -> None:
    for name, more in (("plain", ()), ("other", setting)):
        simulate(trace, "--out", tmp_path / name, *more, policies=("lru",))
    one, other = (json.loads((tmp_path / name / "meta.json").read_text()) for name in ("plain", "other"))
    assert one != other


def test_the_same_command_gives_the_same_bytes(trace: Path, tmp_path: Path) -> None:
    """In interpreters of their own, whose sets and dictionaries of text are in another order."""
    printed = []
    for seed in ("1", "2"):
        command = arguments(trace, "--out", tmp_path / seed / "results", "--detail", "events", "--json")
        done = subprocess.run(
            [sys.executable, "-m", "sim", *command],
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert (done.returncode, done.stderr) == (0, b"")
        printed.append(done.stdout)
    assert printed[0] == printed[1]
    assert {each["policy"] for each in json.loads(printed[0])} == set(POLICIES)
    assert content(tmp_path / "1" / "results") == content(tmp_path / "2" / "results")


def test_a_policys_row_does_not_depend_on_those_beside_it(simulate: Any, trace: Path) -> None:
    alone = {name: simulate(trace, policies=(name,))[name] for name in POLICIES}
    assert simulate(trace, policies=POLICIES[::-1]) == alone


# ---- what is printed -------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_per_policy(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(trace)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    rule = next(number for number, line in enumerate(lines) if line.startswith("---"))
    assert [line.split()[0] for line in lines[rule + 1 : rule + 1 + len(POLICIES)]] == list(POLICIES)
    heading = " ".join(lines[:rule])
    for word in ("TTFT", "TPOT", "hit rate", "late", "miss", "useful", "wasted", "MB/token", "memory GB", "no-offload"):
        assert word in heading


def test_the_heading_says_what_the_times_stand_for(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(trace, "--as", "mixtral-8x7b", policies=("lru",))) == 0
    heading = capsys.readouterr().out.split("\n\n")[0]
    for word in ("Simulated, not measured", "3 requests", "small.trace", "SYNTHETIC", "mixtral-8x7b layers × 4"):
        assert word in heading
    for word in ("rtx3090x6", "8 of 32 experts (25%)", "2.82 GB"):  # 8 · 352 MB
        assert word in heading


def test_the_table_prints_the_numbers_of_json(simulate: Any, decoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without prefill a dash stands for what there is not."""
    more = ("--as", "mixtral-8x7b")
    found = simulate(decoded, *more, policies=("lru",))["lru"]
    assert main(arguments(decoded, *more, policies=("lru",))) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("lru")]
    times = " / ".join(f"{found[f'tpot_s_{key}'] * 1e3:.1f}" for key in ("mean", "p50", "p95"))
    rate = f"{found['hit_rate'] * 100:.1f} / – / {found['hit_rate_decode'] * 100:.1f}"
    for cell in ("– / – / –", times, rate, f"{found['bytes_per_token'] / 1e6:.0f}"):
        assert cell in row


def test_a_note_says_that_finemoe_runs_by_trajectory_only(
    simulate: Any, decoded: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "trajectory only" in simulate(decoded)["finemoe"]["note"]
    assert simulate(trace)["finemoe"]["note"] is None
    assert main(arguments(decoded)) == 0
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "trajectory only" in line]
    assert note.startswith("finemoe")


def test_the_command_is_a_program_of_its_own(trace: Path) -> None:
    def command(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([sys.executable, "-m", "sim", *words], capture_output=True, text=True, check=False)

    done = command(*arguments(trace, "--cache-share", 0.5))
    assert (done.returncode, done.stderr) == (0, "")
    assert "finemoe" in done.stdout
    wrong = command(*arguments(trace, policies=("finemo",)))
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: unknown policy 'finemo'; did you mean 'finemoe'?\n"


# ---- the sizes of another model --------------------------------------------------------------------------------------


def test_another_models_sizes_change_times_and_bytes_but_not_lrus_hits(simulate: Any, trace: Path) -> None:
    """One GPU, on demand: what is hit depends on the order of demands alone."""
    more = ("--hardware", "rtx3090", "--cache-experts", 16)
    plain = simulate(trace, *more, policies=("lru",))["lru"]
    large = simulate(trace, *more, "--as", "mixtral-8x7b", policies=("lru",))["lru"]
    assert large["model"] == "mixtral-8x7b layers × 4"
    for key in ("hit_rate", "distinct_demands", "copies"):
        assert large[key] == plain[key]
    size = 3 * 4096 * 14336 * 2
    assert large["bytes_per_token"] / plain["bytes_per_token"] == pytest.approx(size / EXPERT_BYTES)
    assert large["expert_memory_bytes"] == 16 * size
    assert large["tpot_s_mean"] > plain["tpot_s_mean"]


def test_with_as_many_layers_the_model_has_its_own_name(simulate: Any, tmp_path: Path) -> None:
    deep = small_trace(tmp_path / "deep.trace", 3, shape=small_shape(layers=32, experts=8), lookahead=())
    found = simulate(deep, "--as", "mixtral-8x7b", policies=("lru",))
    assert found["lru"]["model"] == "mixtral-8x7b"


# ---- cache sizes -----------------------------------------------------------------------------------------------------


def test_the_three_ways_to_say_a_cache_size_agree(simulate: Any, trace: Path) -> None:
    """A quarter of 32 experts is 8, of Mixtral's 352 MB: 2.82 GB and a bit more, but not another expert."""
    ways = [("--cache-experts", 8), ("--cache-share", 0.25), ("--cache-gb", 2.9), ("--cache-gb", 3.17), ()]
    found = [simulate(trace, "--as", "mixtral-8x7b", *way, policies=("lru",)) for way in ways]
    assert found[0]["lru"]["expert_slots"] == 8
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize(
    ("share", "experts"), [(0.25, 8), (0.5, 16), (0.999, 31), (1.0, 32), (1, 32), (0.21, 6), (0.24, 7)]
)
def test_a_share_is_rounded_down_to_whole_experts(simulate: Any, trace: Path, share: float, experts: int) -> None:
    assert simulate(trace, "--cache-share", share, policies=("lru",))["lru"]["expert_slots"] == experts


def test_memory_for_more_than_all_experts_holds_them_all(simulate: Any, trace: Path) -> None:
    assert simulate(trace, "--cache-gb", 1000, policies=("lru",))["lru"]["expert_slots"] == 32


@pytest.mark.parametrize("model", ["mixtral-8x7b", "qwen1.5-moe-a2.7b", "gpt-oss-20b"])
def test_gigabytes_that_hold_n_experts_exactly_hold_n(model: str) -> None:
    shape = published(model)
    sizes = [f"{n * shape.expert_bytes / 1e9:.9f}" for n in range(1, shape.total_experts + 1)]
    counted = [slots_for(shape, experts=None, share=None, gb=float(text)) for text in sizes]
    assert counted == list(range(1, shape.total_experts + 1))


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_share_in_whole_percent_is_exact(model: str) -> None:
    shape = published(model)
    counted = [slots_for(shape, experts=None, share=percent / 100, gb=None) for percent in range(1, 101)]
    assert counted == [percent * shape.total_experts // 100 for percent in range(1, 101)]


# ---- checking --------------------------------------------------------------------------------------------------------


def test_checking_changes_nothing_that_comes_out(simulate: Any, trace: Path) -> None:
    assert simulate(trace, "--check") == simulate(trace)


def test_checking_looks_at_every_call_of_every_policy(
    simulate: Any, trace: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []

    class Counting(InvariantChecker):
        def called(self, *args: Any) -> None:
            checked.append(1)
            super().called(*args)

    monkeypatch.setattr("sim.simulation.InvariantChecker", Counting)
    simulate(trace)
    assert checked == []
    simulate(trace, "--check", "--detail", "events", "--out", out)
    assert len(checked) == len(frames(out)["events"])


# ---- mistakes --------------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], command: list[str]) -> str:
    """The one line on stderr with which the command exits with 2; stdout stays empty."""
    capsys.readouterr()
    assert main(command) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err.removeprefix("error: ").removesuffix("\n")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--policy", "finemo"), "unknown policy 'finemo'; did you mean 'finemoe'?"),
        (("--policy", "LRU"), "unknown policy 'LRU'; known: finemoe, lru, no-offload, oracle"),
        (("--policy", ""), "unknown policy ''; known: "),
        (("--policy", "finemoe,capcity=5"), "unknown setting of policy finemoe 'capcity'; did you mean 'capacity'?"),
        (("--policy", "lru,capacity=5"), "policy lru has no settings, so not 'capacity' either"),
        (("--policy", "finemoe,capacity"), "'capacity' is not of the form setting=value"),
        (("--policy", "finemoe,capacity=many"), "capacity: 'many' is not a int"),
        (("--policy", "finemoe,learn=perhaps"), "learn: 'perhaps' is not a bool"),
        (("--policy", "finemoe,capacity=0"), "finemoe: capacity 0"),
        (("--policy", "finemoe,prefetch_distance=5"), "finemoe: prefetch_distance 5 is not in 1 … 4"),
        (("--policy", "finemoe,fill=full"), "finemoe: fill 'full' is none of random, redundancy"),
        (("--policy", "finemoe,capacity=100000000000000"), "capacity"),
        (("--hardware", "rtx3090x4"), "unknown hardware 'rtx3090x4'; did you mean 'rtx3090x6'?"),
        (("--as", "mixtral-8x7"), "unknown model 'mixtral-8x7'; did you mean 'mixtral-8x7b'?"),
        (
            ("--as", "gpt-oss-20b"),
            "--as gpt-oss-20b: it has top-4 of 32 experts, the trace of small has top-2 of 8",
        ),
        (("--as", "phi-3.5-moe"), "--as phi-3.5-moe: it has top-2 of 16 experts, the trace of small has top-2 of 8"),
        (("--cache-experts", 0), "cache of 0 experts"),
        (("--cache-experts", -3), "cache of -3 experts"),
        (("--cache-experts", 1, "--hardware", "a100"), "needs at least 2 (top-2, one slot per GPU)"),
        (("--cache-experts", 5), "on 6 GPUs needs at least 6 (top-2, one slot per GPU)"),
        (("--cache-experts", 33), "has use for at most 32"),
        (("--cache-share", 0), "--cache-share 0.0: "),
        (("--cache-share", 2), "--cache-share 2.0: "),
        (("--cache-share", -0.5), "--cache-share -0.5: "),
        (("--cache-share", "nan"), "--cache-share nan: "),
        (("--cache-share", 0.01), "cache of 0 experts"),
        (("--cache-gb", -1), "--cache-gb -1.0: "),
        (("--cache-gb", 0), "--cache-gb 0.0: "),
        (("--cache-gb", 0.3, "--as", "mixtral-8x7b"), "cache of 0 experts"),
        (("--cache-gb", "nan"), "--cache-gb nan"),
        (("--cache-gb", "inf"), "--cache-gb inf"),
        (("--train-split", 1), "--train-split 1.0: it is a share from 0 to below 1"),
        (("--train-split", -0.1), "--train-split -0.1: "),
        (("--train-split", "nan"), "--train-split nan: "),
        (("--train-split", 0.99), "none of 10 requests is left to simulate"),
        (("--batch-size", 0), "batch size 0: at least 1 request is needed"),
        (("--batch-size", -2), "batch size -2: "),
        (("--requests", 0), "--requests 0"),
        (("--requests", -1), "--requests -1"),
        (("--seed", -1), "--seed -1"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_wrong_setting_is_one_line_and_leaves_nothing(
    trace: Path, out: Path, capsys: pytest.CaptureFixture[str], more: tuple[Any, ...], said: str
) -> None:
    policies = () if more[0] == "--policy" else ("finemoe", "lru")
    assert said in refused(capsys, arguments(trace, *more, "--out", out, policies=policies))
    assert list(out.parent.iterdir()) == []


def test_an_illegal_cache_size_is_refused_whatever_the_policy(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, arguments(trace, "--cache-experts", 0, policies=("no-offload",)))


@pytest.mark.parametrize("more", [("--cache-experts", "two"), ("--seed", "x"), ("--detail", "all"), ("--nothing",)])
def test_a_word_that_is_no_number_or_no_option_ends_with_2(
    trace: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments(trace, *more))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert more[0] in captured.err


def test_only_one_cache_size_can_be_given(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments(trace, "--cache-experts", 8, "--cache-share", 0.25))
    assert "not allowed with" in capsys.readouterr().err


def test_a_missing_trace_is_one_line(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, arguments(tmp_path / "none.trace", "--out", out))
    assert said == f"{tmp_path}/none.trace: is not the folder of a trace"
    assert list(tmp_path.iterdir()) == []


def test_a_forgotten_ending_is_offered(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"did you mean {trace}?" in refused(capsys, arguments(trace.with_suffix("")))


def copied(trace: Path, to: Path) -> Path:
    to.mkdir()
    for name, data in content(trace).items():
        (to / name).write_bytes(data)
    return to


def test_truncated_tokens_are_one_line(
    trace: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = copied(trace, tmp_path / "a.trace")
    tokens = broken / "tokens.parquet"
    tokens.write_bytes(tokens.read_bytes()[:-500])
    assert refused(capsys, arguments(broken, "--out", out)).startswith(f"{tokens}: ")
    assert [file.name for file in tmp_path.iterdir()] == ["a.trace"]


def test_a_flipped_bit_is_found_when_its_request_is_read(
    trace: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same size, so only reading can tell: in the middle of the run, and still nothing is left behind."""
    broken = copied(trace, tmp_path / "a.trace")
    tokens = broken / "tokens.parquet"
    data = bytearray(tokens.read_bytes())
    data[len(data) // 2] ^= 1
    tokens.write_bytes(data)
    assert refused(capsys, arguments(broken, "--out", out)).startswith(f"{tokens}: ")
    assert not out.exists()


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_trace_is_one_line(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    """`finemoe` reads what it learns from and what it is simulated on, so nothing escapes it."""
    broken = small_trace(tmp_path / "a.trace")
    BROKEN[case][0](broken)
    refused(capsys, arguments(broken, "--train-split", 0.5, "--out", out, policies=("finemoe",)))
    assert [file.name for file in tmp_path.iterdir()] == ["a.trace"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_gate_that_is_no_number_stops_every_policy(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    broken = copied(trace, tmp_path / "a.trace")

    def spoil(gate: Any) -> None:
        gate[:, 0] = np.nan

    change_values(broken, "tokens.parquet", "gate", spoil)
    assert "field gate: layer 0 must be finite, value nan" in refused(capsys, arguments(broken, policies=(policy,)))


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_results_that_exist_are_not_touched(
    trace: Path, out: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    if kind == "folder":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    else:
        out.write_text("mine")
    assert refused(capsys, arguments(trace, "--out", out)) == (
        f"{out} exists already; choose another --out or remove it"
    )
    assert (out / "mine.txt" if kind == "folder" else out).read_text() == "mine"
    assert list(out.parent.iterdir()) == [out]


def test_existing_results_are_noticed_before_anything_is_simulated(
    trace: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("simulated")

    out.mkdir()
    monkeypatch.setattr("sim.run.simulate", never)
    refused(capsys, arguments(trace, "--out", out))


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    trace: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    write_table, written = pq.write_table, []

    def full(table: Any, path: Path, **options: Any) -> None:
        if len(written) == after:
            Path(path).write_bytes(b"PAR1")  # what had fitted
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        write_table(table, path, **options)

    monkeypatch.setattr("sim.results.pq.write_table", full)
    assert refused(capsys, arguments(trace, "--json", "--out", out)) == (
        f"{out}: results could not be written: No space left on device"
    )
    assert list(out.parent.iterdir()) == []


def test_results_cannot_go_below_a_file(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert "results could not be written" in refused(capsys, arguments(trace, "--out", tmp_path / "file" / "results"))
    assert (tmp_path / "file").read_text() == "mine"


def needy() -> Policy:
    """A policy that predicts from embeddings alone."""

    class Needy(Prefetcher):
        requires = frozenset({"embedding"})

    return Policy(prefetcher=Needy(), evictor=LeastRecentlyUsed())


def test_a_policy_that_needs_what_the_trace_lacks_names_it(
    simulate: Any, trace: Path, decoded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NAMED, "needy", f"{__name__}:needy")
    assert simulate(trace, policies=("needy",))["needy"]["requests"] == 3
    said = refused(capsys, arguments(decoded, policies=("lru", "needy")))
    assert said == f"policy needy needs embeddings.parquet, which {decoded} does not have"


def test_an_interruption_leaves_nothing(
    trace: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sim.simulation.Engine.run", interrupted)
    assert main(arguments(trace, "--out", out)) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert list(out.parent.iterdir()) == []
