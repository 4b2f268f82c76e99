"""`finemoe sim run`: what it prints, and what its settings do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from policies.cache.invariants import InvariantChecker
from sim.__main__ import main
from sim.hardware.profile import write_profile
from sim.results.result import Result
from sim.scenario import CacheSize
from tests.support.profiles import flat_profile
from tests.support.run_helpers import (
    EXPERT_BYTES,
    ITERATIONS_OF_A_REQUEST,
    NO_REFERENCES,
    POLICIES,
    REQUIRED,
    SHAPE,
    arguments,
    demands_of,
    frames,
    run_once,
)
from tests.support.slow_cases import slow_but
from tests.support.trace_helpers import small_shape, small_trace
from traces.published_models import PUBLISHED, published

# ---- what comes out --------------------------------------------------------------------------------------------------


def test_json_has_an_object_per_policy_in_the_order_given(simulate: Any, trace: Path) -> None:
    found = simulate(trace, *NO_REFERENCES, policies=("oracle", "lru", "finemoe"))
    assert list(found) == ["oracle", "lru", "finemoe"]
    assert all(each.keys() >= REQUIRED for each in found.values())


def test_a_policy_named_twice_is_run_once(simulate: Any, trace: Path) -> None:
    assert list(simulate(trace, *NO_REFERENCES, policies=("lru", "oracle", "lru"))) == ["lru", "oracle"]


def test_settings_of_a_policy_make_another_row(simulate: Any, trace: Path) -> None:
    found = simulate(trace, *NO_REFERENCES, policies=("finemoe", "finemoe,capacity=2,prefetch_distance=1,learn=false"))
    assert list(found) == ["finemoe", "finemoe,capacity=2,prefetch_distance=1,learn=false"]


def test_times_are_positive_seconds_and_shares_are_of_one(plain: dict[str, dict[str, Any]]) -> None:
    for each in plain.values():
        assert 0 < each["tpot_s_p50"] <= each["tpot_s_p95"] < 1
        assert 0 < each["ttft_s_p50"] <= each["ttft_s_p95"] < 1
        assert each["hit_rate"] + each["late_rate"] + each["miss_rate"] == pytest.approx(1)
        assert all(0 <= each[key] <= 1 for key in each if "rate" in key)
        assert each["tpot_over_no_offload"] >= 1 - 1e-12


def test_no_offload_hits_always_and_moves_nothing(plain: dict[str, dict[str, Any]]) -> None:
    found = plain["no-offload"]
    assert (found["hit_rate"], found["late_rate"], found["miss_rate"], found["bytes_per_token"]) == (1, 0, 0, 0)
    assert (found["hit_rate_prefill"], found["hit_rate_decode"]) == (1, 1)
    assert found["tpot_over_no_offload"] == 1
    assert found["expert_memory_bytes"] == 32 * EXPERT_BYTES


def test_tpot_over_no_offload_is_a_ratio_of_two_runs(
    simulate: Any, trace: Path, plain: dict[str, dict[str, Any]]
) -> None:
    both, alone = plain, simulate(trace, policies=("lru",))
    ratio = both["lru"]["tpot_s_mean"] / both["no-offload"]["tpot_s_mean"]
    assert both["lru"]["tpot_over_no_offload"] == pytest.approx(ratio, rel=1e-12)
    assert alone["lru"] == both["lru"]


def test_without_prefetches_there_are_no_outcomes(plain: dict[str, dict[str, Any]]) -> None:
    assert plain["lru"]["prefetched_copies"] == 0
    assert plain["lru"]["prefetch_useful"] is None


def test_a_prefetched_copy_is_useful_late_wasted_cancelled_or_still_unused_at_the_end(
    plain: dict[str, dict[str, Any]],
) -> None:
    found = plain["finemoe"]
    prefetched = found["prefetched_copies"]
    ended = sum(found[f"prefetch_{what}"] * prefetched for what in ("useful", "late", "wasted", "cancelled"))
    assert 0 < ended < prefetched + 0.5
    assert prefetched - ended < found["expert_slots"] + 0.5


def test_peak_memory_is_that_of_the_slots_taken(simulate: Any, trace: Path) -> None:
    for each in simulate(trace, *NO_REFERENCES, "--cache-experts", 8, policies=("finemoe", "lru", "oracle")).values():
        assert each["expert_memory_bytes"] == 8 * EXPERT_BYTES  # far more experts are demanded than fit


def test_on_a_measured_profile_times_are_the_profiles(simulate: Any, trace: Path, tmp_path: Path) -> None:
    """No-offload: per layer 5 s dense, then 4 s each for the experts of its single device, 1 s exchange; head 2 s.

    A decode step has 2 experts per layer, so 4 · (5 + 2·4 + 1) + 2.
    """
    write_profile(tmp_path / "a.toml", flat_profile(SHAPE))
    found = simulate(trace, *NO_REFERENCES, "--machine", tmp_path / "a.toml", policies=("no-offload", "lru"))
    assert found["no-offload"]["tpot_s_mean"] == pytest.approx(58, rel=1e-12)
    assert found["lru"]["tpot_s_mean"] > 58
    assert {(each["machine"], each["gpus"]) for each in found.values()} == {("flat", 1)}


@pytest.mark.parametrize("hardware", ["rtx3090", "rtx3090x6"])
def test_without_prefill_ttft_is_null(simulate: Any, decoded: Path, hardware: str) -> None:
    for each in simulate(decoded, *NO_REFERENCES, "--machine", hardware).values():
        assert [each[key] for key in ("ttft_s_mean", "ttft_s_p50", "ttft_s_p95", "hit_rate_prefill")] == [None] * 4
        assert each["tpot_s_mean"] > 0
        assert each["hit_rate_decode"] == each["hit_rate"]


def test_distinct_demands_are_counted_from_the_file(
    written: tuple[dict[str, dict[str, Any]], Path], trace: Path
) -> None:
    found, out = written
    simulated = sorted(set(frames(out)["requests"]["request"]))
    assert len(simulated) == 3
    expected = demands_of(trace, [[request] for request in simulated])
    assert {each["distinct_demands"] for each in found.values()} == {expected}


def test_requests_of_a_batch_demand_an_expert_once(simulate: Any, trace: Path, out: Path) -> None:
    found = simulate(trace, *NO_REFERENCES, "--batch-size", 2, "--out", out)
    first, second, third = sorted(set(frames(out)["requests"]["request"]))
    expected = demands_of(trace, [[first, second], [third]])
    assert {each["distinct_demands"] for each in found.values()} == {expected}
    assert {each["iterations"] for each in found.values()} == {2 * ITERATIONS_OF_A_REQUEST}


@pytest.mark.parametrize(("share", "left"), slow_but([(0, 10), (0.5, 5), (0.7, 3), (0.9, 1)], (0, 10), (0.9, 1)))
def test_the_split_leaves_the_rest_to_simulate(simulate: Any, trace: Path, share: float, left: int) -> None:
    for each in simulate(trace, *NO_REFERENCES, "--train-split", share, policies=("finemoe", "lru")).values():
        assert (each["requests"], each["iterations"]) == (left, left * ITERATIONS_OF_A_REQUEST)
        assert each["output_tokens"] == left * ITERATIONS_OF_A_REQUEST  # the prefill gives one, each decode one


def test_the_seed_draws_the_split(simulate: Any, trace: Path, tmp_path: Path) -> None:
    simulated = []
    for seed in range(3):
        simulate(trace, *NO_REFERENCES, "--seed", seed, "--out", tmp_path / str(seed), policies=("lru",))
        simulated.append(frames(tmp_path / str(seed))["requests"]["request"].tolist())
    assert all(requests == sorted(requests) for requests in simulated)
    assert len({tuple(requests) for requests in simulated}) > 1


def test_fewer_requests_are_the_first_of_them(simulate: Any, trace: Path, tmp_path: Path) -> None:
    simulate(trace, *NO_REFERENCES, "--out", tmp_path / "all", policies=("lru",))
    simulate(trace, *NO_REFERENCES, "--out", tmp_path / "two", "--requests", 2, policies=("lru",))
    every, two = (frames(tmp_path / name)["requests"] for name in ("all", "two"))
    pd.testing.assert_frame_equal(two, every.iloc[:2])


# ---- what is printed -------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_per_policy(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(trace, "--wide", "--references", "no-offload")) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    rule = next(number for number, line in enumerate(lines) if line.startswith("---"))
    assert [line.split()[0] for line in lines[rule + 1 : rule + 1 + len(POLICIES)]] == list(POLICIES)
    heading = " ".join(lines[:rule])
    for word in ("TTFT", "TPOT", "hit rate", "late", "miss", "useful", "wasted", "/token", "memory", "over no-"):
        assert word in heading


def test_the_heading_says_what_was_simulated_or_measured(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(trace, *NO_REFERENCES, "--sizes", "mixtral-8x7b", policies=("lru",))) == 0
    heading = capsys.readouterr().out.split("\n\n")[0]
    for word in ("Simulated, not measured", "3 requests", "small.trace", "SYNTHETIC", "4 layers of mixtral-8x7b"):
        assert word in heading
    for word in ("rtx3090x6", "8 of 32 experts (25%)", "2.82 GB"):  # 8 · 352 MB
        assert word in heading


@pytest.mark.parametrize("brief", [[], ["--brief"]])
def test_a_cache_for_all_experts_is_noted(trace: Path, capsys: pytest.CaptureFixture[str], brief: list[str]) -> None:
    """Since they are missed once even so."""
    for share, noted in ((1, True), (0.97, False)):
        asked = arguments(trace, *NO_REFERENCES, *brief, "--cache-share", share, policies=("lru",))
        assert main(asked) == 0
        assert ("the cache has room for all experts" in capsys.readouterr().out) == noted


def test_the_heading_says_that_the_machine_is_a_measured_profile(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(tmp_path / "a.toml", flat_profile(SHAPE, gpus=2))
    assert main(arguments(trace, "--machine", tmp_path / "a.toml", *NO_REFERENCES, policies=("lru",))) == 0
    heading = capsys.readouterr().out.split("\n\n")[0]
    for words in ("Simulated, not measured", "on a measured profile of flat (2 logical devices)", "8 of 32 experts"):
        assert words in heading
    assert "of their" not in heading  # what memory the devices have was not measured
    costs = "costs: measured: computing, copies, driving, searches; not modelled: contention, host memory"
    assert costs in heading.replace("\n ", "")


def test_metadata_and_json_say_what_was_measured_and_what_is_assumed(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(tmp_path / "a.toml", flat_profile(SHAPE, gpus=2))
    asked = arguments(trace, "--machine", f"{tmp_path / 'a.toml'},scale.search=2", policies=("lru",))
    assert main([*asked, "--json", "--out", str(tmp_path / "out"), *NO_REFERENCES]) == 0
    (summary,) = json.loads(capsys.readouterr().out)
    assert summary["costs"].startswith("measured: computing, copies, driving; assumed: searches; ")
    origins = Result.read(tmp_path / "out").provenance["machine"]["origins"]
    assert origins["copies"] == ["measured"]
    assert origins["searches"] == ["assumed"]
    assert origins["contention"] == []


def test_the_table_prints_the_numbers_of_json(simulate: Any, decoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without prefill there is no column for it, and where a cell has several figures a dash stands for it."""
    more = ("--sizes", "mixtral-8x7b", *NO_REFERENCES)
    found = simulate(decoded, *more, policies=("lru",))["lru"]
    assert main(arguments(decoded, *more, "--wide", policies=("lru",))) == 0
    text = capsys.readouterr().out
    row, split = [line for line in text.splitlines() if line.startswith("lru ")]
    times = " / ".join(f"{found[f'tpot_s_{key}'] * 1e3:.2f}" for key in ("mean", "p50", "p95"))
    rate = f"{found['hit_rate'] * 100:.1f} / – / {found['hit_rate_decode'] * 100:.1f}"
    for cell in (times, rate, f"{found['bytes_per_token'] / 1e9:.2f}"):
        assert cell in row
    for word in ("TTFT", "prefetches", "hit + late"):  # no prefills, and nothing prefetches
        assert word not in text
    assert split.split()[2:4] == [f"{found[f'decode_{part}_s'] * 1e3:.2f}" for part in ("compute", "exchange")]


def test_a_note_says_that_finemoe_runs_by_trajectory_only(
    simulate: Any, decoded: Path, plain: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "trajectory only" in simulate(decoded, *NO_REFERENCES, policies=("finemoe",))["finemoe"]["note"]
    assert "trajectory only" not in plain["finemoe"]["note"]
    assert main(arguments(decoded, *NO_REFERENCES, policies=("finemoe", "lru"))) == 0
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "trajectory only" in line]
    assert note.startswith("finemoe")


def in_a_process(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "sim", *words], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_is_a_program_of_its_own(trace: Path) -> None:
    """As in the test that the same command writes the same bytes, which compares all that it prints."""
    done = in_a_process(*arguments(trace, "--cache-share", 0.5, *NO_REFERENCES))
    assert (done.returncode, done.stderr) == (0, "")
    assert "finemoe" in done.stdout


def test_the_program_ends_with_2_if_it_is_called_wrongly(trace: Path) -> None:
    wrong = in_a_process(*arguments(trace, policies=("finemo",)))
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: unknown policy 'finemo'; did you mean 'finemoe'?\n"


# ---- the sizes of another model --------------------------------------------------------------------------------------


def test_another_models_sizes_change_times_and_bytes_but_not_lrus_hits(simulate: Any, trace: Path) -> None:
    """One GPU, on demand: what is hit depends on the order of demands alone."""
    more = (*NO_REFERENCES, "--machine", "rtx3090", "--cache-experts", 16)
    plain = simulate(trace, *more, policies=("lru",))["lru"]
    large = simulate(trace, *more, "--sizes", "mixtral-8x7b", policies=("lru",))["lru"]
    assert large["model"] == "4 layers of mixtral-8x7b"
    for key in ("hit_rate", "distinct_demands", "copies"):
        assert large[key] == plain[key]
    size = 3 * 4096 * 14336 * 2
    assert large["bytes_per_token"] / plain["bytes_per_token"] == pytest.approx(size / EXPERT_BYTES)
    assert large["expert_memory_bytes"] == 16 * size
    assert large["tpot_s_mean"] > plain["tpot_s_mean"]


def test_with_as_many_layers_the_model_has_its_own_name(simulate: Any, tmp_path: Path) -> None:
    deep = small_trace(tmp_path / "deep.trace", 3, shape=small_shape(layers=32, experts=8), lookahead=())
    found = simulate(deep, *NO_REFERENCES, "--sizes", "mixtral-8x7b", policies=("lru",))
    assert found["lru"]["model"] == "mixtral-8x7b"


# ---- cache sizes -----------------------------------------------------------------------------------------------------


def test_the_three_ways_to_give_a_cache_size_agree(simulate: Any, trace: Path) -> None:
    """A quarter of 32 experts is 8, of Mixtral's 352 MB: 2.82 GB and a bit more, but not another expert."""
    ways = [("--cache-experts", 8), ("--cache-share", 0.25), ("--cache-gb", 2.9), ("--cache-gb", 3.17), ()]
    found = [simulate(trace, *NO_REFERENCES, "--sizes", "mixtral-8x7b", *way, policies=("lru",)) for way in ways]
    assert found[0]["lru"]["expert_slots"] == 8
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize(
    ("share", "experts"),
    slow_but(
        [(0.25, 8), (0.5, 16), (0.999, 31), (1.0, 32), (1, 32), (0.21, 6), (0.24, 7)], (0.999, 31), (1, 32), (0.21, 6)
    ),
)
def test_a_share_is_rounded_down_to_whole_experts(simulate: Any, trace: Path, share: float, experts: int) -> None:
    assert simulate(trace, *NO_REFERENCES, "--cache-share", share, policies=("lru",))["lru"]["expert_slots"] == experts


def test_memory_for_more_than_all_experts_holds_them_all(simulate: Any, trace: Path) -> None:
    assert simulate(trace, *NO_REFERENCES, "--cache-gb", 100, policies=("lru",))["lru"]["expert_slots"] == 32


@pytest.mark.parametrize("model", ["mixtral-8x7b", "qwen1.5-moe-a2.7b", "gpt-oss-20b"])
def test_gigabytes_that_hold_n_experts_exactly_hold_n(model: str) -> None:
    shape = published(model)
    sizes = [f"{n * shape.expert_bytes / 1e9:.9f}" for n in range(1, shape.total_experts + 1)]
    counted = [CacheSize(gb=float(text)).slots(shape) for text in sizes]
    assert counted == list(range(1, shape.total_experts + 1))


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_share_in_whole_percent_is_exact(model: str) -> None:
    shape = published(model)
    counted = [CacheSize(share=percent / 100).slots(shape) for percent in range(1, 101)]
    assert counted == [percent * shape.total_experts // 100 for percent in range(1, 101)]


# ---- checking --------------------------------------------------------------------------------------------------------


Checked = tuple[dict[str, dict[str, Any]], int, Path]


@pytest.fixture(scope="module")
def checked(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Checked]:
    """The command without `--check` and with it: the JSON of each policy, how many calls were checked, and results."""
    calls: list[int] = []

    class Counting(InvariantChecker):
        def called(self, *args: Any) -> None:
            calls.append(1)
            super().called(*args)

    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sim.started_policy.InvariantChecker", Counting)
        for more in ((), ("--check",)):
            calls.clear()
            out = tmp_path_factory.mktemp("checked") / "results"
            figures, _ = run_once(out, trace, "--detail", "events", *NO_REFERENCES, *more)
            found.append((figures, len(calls), out))
    return found


def test_checking_does_not_change_the_result(checked: list[Checked]) -> None:
    (unchecked, *_), (found, *_) = checked
    assert found == unchecked


def test_checking_looks_at_every_call_of_every_policy(checked: list[Checked]) -> None:
    (_, none, _), (_, calls, out) = checked
    assert none == 0
    assert calls == len(frames(out)["events"])
