"""`validate replay` and `validate calibrate` as a user calls them, on a tiny checkpoint."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from policies.base import Policy
from policies.cache.decision_log import transfers
from sim.__main__ import main as sim
from sim.engine.batching import fixed_batches
from sim.hardware.profile import read_profile, write_profile
from sim.results.event_table import logged_calls
from sim.results.result import read_results
from tests.support.profiles import flat_profile
from tests.support.slow_cases import slow_but
from tests.support.tiny_models import save_tiny
from traces.format.reader import Trace, split
from validate.__main__ import main as validate
from validate.calibration import machine_profile, side_by_side
from validate.driver.threaded_driver import Driver
from validate.offload.arena import Arena

PROMPTS = "\n".join(" ".join(f"w{4 + (7 * line + place) % 190}" for place in range(3 + line % 5)) for line in range(6))
SHORT = ("--max-new-tokens", 2)  # where the length proves nothing
FEW = (*SHORT, "--limit", 3)  # nor does the number of prompts
ON_DEMAND = ["hits", "late", "misses", "distinct_demands", "copies", "evictions", "copied_bytes"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "prompts.txt").write_text(PROMPTS)
    return save_tiny(folder / "tiny", "qwen2_moe")


def arguments(checkpoint: Path, *more: object) -> list[str]:
    common = [
        "replay",
        checkpoint,
        "--prompts",
        checkpoint.parent / "prompts.txt",
        "--max-new-tokens",
        4,
        "--threads",
        1,
    ]
    return [str(each) for each in (*common, *more)]


@pytest.fixture(scope="module")
def calibrated(checkpoint, tmp_path_factory) -> tuple[Path, str]:
    """A profile of this machine, measured in few repeats, and what `calibrate` printed."""
    path = tmp_path_factory.mktemp("calibrated") / "machine.toml"
    words = ["--out", path, "--max-tokens", 8, "--threads", 1, "--name", "bench"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        for name, few in (("_REPEATS", 2), ("_NEW_TOKENS", 4), ("_MOST_CALLS", 20)):
            patch.setattr(machine_profile, name, few)
        patch.setattr(side_by_side, "_WINDOWS", 1)
        assert validate(["calibrate", str(checkpoint), *map(str, words)]) == 0
    return path, printed.getvalue()


@pytest.fixture(scope="module")
def measured(checkpoint, tmp_path_factory) -> tuple[Path, str]:
    """A folder with the results, the trace and the scenario of a replay, and what it printed."""
    folder = tmp_path_factory.mktemp("measured")
    words = ["--cache-experts", 12, "--policy", "finemoe", "--policy", "lru", "--detail", "events", "--seed", 3]
    words += ["--chunk-bytes", 3456]  # a quarter of an expert
    saved = ["--record", folder / "replayed.trace", "--save-scenario", folder / "scenario.toml"]
    with redirect_stdout(StringIO()) as printed:
        assert validate(arguments(checkpoint, *words, *saved, "--out", folder / "measured")) == 0
    return folder, printed.getvalue()


def replayed(checkpoint: Path, capsys, *more: object):
    assert validate(arguments(checkpoint, "--json", *more)) == 0
    return {each["policy"]: each for each in json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize(
    ("devices", "replicas", "batch_size", "cache"),
    slow_but(
        [(1, 1, 1, 12), (1, 1, 2, 4), (3, 1, 1, 9), (3, 2, 1, 9), (2, 1, 3, 20), (2, 2, 3, 4)],
        (3, 2, 1, 9),
        (2, 2, 3, 4),
    ),
    ids=lambda value: str(value),
)
def test_on_demand_counts_equal_the_simulated_ones_exactly(
    checkpoint, capsys, tmp_path, devices, replicas, batch_size, cache
):
    """Of the very routing that the replay recorded, on as many devices."""
    trace = tmp_path / "replayed.trace"
    sizes = ["--cache-experts", cache, "--batch-size", batch_size, "--replicas", replicas, "--policy", "lru"]
    sizes += ["--train-split", 0.5]  # leaves three requests, as many as the largest batch
    if batch_size == 1:
        sizes += ["--policy", "oracle"]
    measured = replayed(checkpoint, capsys, *sizes, "--devices", devices, "--record", trace, "--check")
    profile = tmp_path / "machine.toml"
    write_profile(profile, flat_profile(Trace.open(trace).shape, gpus=devices))
    assert sim([str(each) for each in ("run", trace, "--machine", profile, *sizes, "--json")]) == 0
    simulated = {each["policy"]: each for each in json.loads(capsys.readouterr().out)}
    assert measured.keys() == simulated.keys()
    for policy, own in measured.items():
        assert {key: own[key] for key in ON_DEMAND} == {key: simulated[policy][key] for key in ON_DEMAND}
        assert own["simulated"] is False
        assert simulated[policy]["simulated"] is True


def test_finemoe_is_replayed_and_compared_with_its_simulation(measured, calibrated, capsys, tmp_path):
    folder, (printed, *wrote) = measured[0], measured[1].split("wrote ")
    assert wrote == [f"{folder / name}\n" for name in ("measured", "replayed.trace")]
    assert printed.startswith("Measured, not simulated: 2 requests of replayed.trace (captured")
    assert max(map(len, printed.splitlines())) <= 100
    tokens = pd.read_parquet(folder / "measured" / "requests.parquet").groupby("policy")["output_tokens"].sum()
    said = f"2 requests, {tokens['lru']} tokens: every token and logit equals the resident model\n"
    assert said in printed
    assert "best\nknown" not in printed  # nothing is measured that knows the future
    profile, said = calibrated
    assert "GB/s" in said
    run = ["run", "--scenario", folder / "scenario.toml", "--machine", profile, "--out", tmp_path / "simulated"]
    assert sim([str(each) for each in run]) == 0
    capsys.readouterr()
    compare = ["compare", tmp_path / "simulated", folder / "measured", "--plot", tmp_path / "both.svg"]
    assert validate([str(each) for each in compare]) == 0
    assert "lru       misses" in capsys.readouterr().out
    assert (tmp_path / "both.svg").stat().st_size > 10_000
    results = (folder / "measured", tmp_path / "simulated")
    events = pd.read_parquet(results[0] / "events.parquet")
    assert {"plan", "next_copy", "demand"} <= set(events[events["policy"] == "finemoe"]["call"])
    summaries = [pd.read_parquet(each / "summary.parquet") for each in results]
    (finemoe, none), simulated = (each["search_score_semantic_mean"] for each in summaries)
    assert 0 < finemoe == pytest.approx(simulated[0], rel=1e-3)  # embeddings are recorded with fewer digits
    assert np.isnan(none)
    for each in results:
        events = pd.read_parquet(each / "events.parquet")
        begun = events[(events["call"] == "next_copy") & (events["slot"] >= 0)]
        assert set(begun["bytes"][~begun["demanded"]]) == {3456}
        assert set(begun["bytes"][begun["demanded"]]) <= {13_824, 10_368, 6912, 3456}
    assert not summaries[0]["simulated"].any()


def test_one_scenario_is_simulated_and_measured_with_results_alike(measured, tmp_path):
    folder, profile = measured[0], tmp_path / "machine.toml"
    write_profile(profile, flat_profile(Trace.open(folder / "replayed.trace").shape, gpus=1))
    run = ["run", "--scenario", folder / "scenario.toml", "--machine", profile, "--out", tmp_path / "simulated"]
    assert sim([str(each) for each in run]) == 0
    for own, simulated in zip(*map(read_results, (folder / "measured", tmp_path / "simulated")), strict=True):
        assert own.scenario.machine == "cpu with 1 thread"
        assert own.scenario.seed == 3
        assert replace(own.scenario, machine=str(profile)) == simulated.scenario
        assert own.summary.keys() == simulated.summary.keys()
        for table in ("requests", "iterations", "events"):
            assert getattr(own, table).dtypes.equals(getattr(simulated, table).dtypes)
        assert (own.content_hash, simulated.content_hash is None) == (None, False)
        assert own.provenance["trace"] == simulated.provenance["trace"]


def test_demanded_experts_are_really_copied_one_after_the_other(checkpoint, tmp_path):
    """Over three links; the results say so."""
    words = ["--cache-experts", 12, "--devices", 3, "--demand-loading", "serial", "--detail", "events", "--check", *FEW]
    assert validate(arguments(checkpoint, *words, "--policy", "lru", "--out", tmp_path / "measured")) == 0
    measured = read_results(tmp_path / "measured")[-1]
    assert measured.provenance["machine"]["demand_loading"] == "serial"
    assert "serial demand loading" in measured.provenance["machine"]["described"]
    moved = transfers(logged_calls(measured.events))
    assert len({each.gpu for each in moved}) == 3
    assert all(one.end_s <= other.start_s for one, other in pairwise(moved))


@pytest.mark.parametrize("setting", ['sizes = "mixtral-8x7b"', 'history = "other.trace"'])
def test_fields_that_a_real_run_sets_itself_are_refused(checkpoint, capsys, tmp_path, setting):
    file = tmp_path / "a.toml"
    file.write_text(f"[scenario]\ntrace = 'a.trace'\n{setting}\n")
    assert validate(arguments(checkpoint, "--scenario", file)) == 2
    name = setting.partition(" = ")[0]
    assert capsys.readouterr().err.endswith(f"error: --{name}: cannot be set in a real run\n")


def test_a_scenario_of_a_trace_that_is_not_kept_is_not_saved(checkpoint, capsys, tmp_path):
    file = tmp_path / "a.toml"
    assert validate(arguments(checkpoint, "--save-scenario", file)) == 2
    assert capsys.readouterr().err.endswith(
        "error: --save-scenario: needs --record, because a scenario names its trace\n"
    )
    assert not file.exists()


def test_lookahead_gates_of_a_replay_are_those_of_its_trace(checkpoint, capsys, tmp_path, monkeypatch):
    """Policies that speculate see early what the recording has."""
    trace, seen = tmp_path / "replayed.trace", []

    def spying(driver, gate, experts):
        seen.append((gate.layer, {distance: probs.copy() for distance, probs in gate.lookahead.items()}))
        return gated(driver, gate, experts)

    gated = Driver.gated
    monkeypatch.setattr(Driver, "gated", spying)
    sizes = ["--cache-experts", 12, "--policy", "mixtral-offloading", "--requests", 1, "--lookahead", "1,2", *FEW]
    measured = replayed(checkpoint, capsys, *sizes, "--record", trace)
    assert measured["mixtral-offloading"]["prefetched_copies"] > 0
    opened = Trace.open(trace)
    _, test = split(opened.request_ids, 0.7, np.random.default_rng(0))
    (step, *_) = fixed_batches(opened.iter(test[:1]), 1)
    for layer in range(3):
        number, ahead = seen[layer]
        assert number == layer
        assert ahead.keys() == {1, 2}
        for distance, probs in ahead.items():
            np.testing.assert_array_equal(probs, step.lookahead[distance][:, layer])


def test_a_policy_that_speculates_needs_lookahead(checkpoint, capsys):
    assert validate(arguments(checkpoint, "--cache-experts", 12, "--policy", "mixtral-offloading")) == 2
    error = "needs a column lookahead_1, which a replay without --lookahead does not have"
    assert error in capsys.readouterr().err


def test_all_prompts_are_recorded_even_if_only_some_are_replayed(checkpoint, capsys, tmp_path):
    """So that `sim run` divides the trace into history and test as the replay did."""
    trace = tmp_path / "replayed.trace"
    words = ["--cache-experts", 12, "--policy", "lru", "--requests", 1]
    measured = replayed(checkpoint, capsys, *words, *SHORT, "--record", trace)
    assert len(Trace.open(trace)) == 6
    assert sim([str(each) for each in ("run", trace, "--machine", "rtx3090", *words, "--json")]) == 0
    simulated = json.loads(capsys.readouterr().out)[0]
    assert measured["lru"]["hits"] == simulated["hits"]
    assert measured["lru"]["requests"] == 1


def test_a_profile_says_where_it_was_measured(calibrated):
    profile = read_profile(calibrated[0])
    assert profile.name == "bench"
    assert profile.measured["device"] == "cpu"
    assert profile.measured["copy_bytes_per_s"] > 0
    assert profile.expert.sizes == (1, 2, 4, 8)
    assert profile.copy.sizes[-1] == profile.model.expert_bytes


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cache-experts", 3], "--cache-experts: 3 gives room for 3 experts; the cache must hold 4 to "),
        (["--cache-experts", 12, "--devices", 0], "--devices: must be at least 1, not 0"),
        (["--cache-experts", 12, "--replicas", 2], "--replicas: must be from 1 to 1, the number of GPUs, not 2"),
        (["--cache-experts", 12, "--threads", 0], "--threads: must be at least 1, not 0"),
        (["--cache-experts", 12, "--device", "cuda"], "device 'cuda'"),
        (["--cache-experts", 12, "--train-split", 1.0], "--train-split: must be at least 0 and below 1, not 1.0"),
        (["--cache-experts", 12, "--limit", 0], "--limit: must be at least 1, not 0"),
        (["--cache-experts", 12, "--max-new-tokens", 500], "exceed the model's context of 128"),
        (
            ["--cache-experts", 12, "--record", "x.parquet"],
            "--record: must be a name that ends in .trace, not x.parquet",
        ),
    ],
)
def test_a_mistake_is_one_line(checkpoint, capsys, more, message):
    assert validate(arguments(checkpoint, "--policy", "lru", *more)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_an_unknown_policy_is_refused_before_anything_runs(checkpoint, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "validate.replay", None)  # cannot be imported; it is what imports torch
    assert validate(arguments(checkpoint, "--cache-experts", 12, "--policy", "finemo")) == 2
    assert "did you mean 'finemoe'" in capsys.readouterr().err


def test_results_that_are_there_already_are_not_touched(checkpoint, capsys, tmp_path):
    assert validate(arguments(checkpoint, "--cache-experts", 12, "--policy", "lru", "--out", tmp_path)) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_copy_thread_that_fails_ends_the_command_with_one_line_and_no_results(
    checkpoint, capsys, tmp_path, monkeypatch
):
    move, moved = Arena.move, []

    def failing(arena, copy):
        moved.append(copy)
        if len(moved) == 50:
            raise OSError(5, "Input/output error")
        move(arena, copy)

    monkeypatch.setattr(Arena, "move", failing)
    out = tmp_path / "measured"
    assert validate(arguments(checkpoint, "--cache-experts", 4, "--policy", "lru", "--out", out)) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == "error: the link 0 has failed: OSError: [Errno 5] Input/output error"
    )
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_change_on_their_way_are_noticed(checkpoint, capsys, monkeypatch):
    move = Arena.move

    def garbling(arena, copy):
        move(arena, copy)
        if copy.number == 5:
            next(iter(arena.views(copy.gpu, copy.slot).values())).mul_(1.001)

    monkeypatch.setattr(Arena, "move", garbling)
    assert validate(arguments(checkpoint, "--cache-experts", 12, "--policy", "lru", *FEW)) == 2
    assert "the resident model's" in capsys.readouterr().err


@pytest.mark.slow  # the same in a process that has not imported torch
def test_a_policy_that_does_not_exist_is_refused_before_torch_is_imported(tmp_path):
    program = "import sys; from validate.__main__ import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, "replay", "pocket", "--policy", "nope", "--out", tmp_path / "measured"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "2 False\n"
    assert "unknown policy 'nope'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_mid_generation_ends_at_once_with_one_line(checkpoint, capsys, tmp_path, monkeypatch):
    """No other layer begins, and no thread goes on."""
    gated, layers, threads = Driver.gated, [], {*threading.enumerate()}

    def interrupted(driver, gate, experts):
        layers.append(gate.layer)
        if len(layers) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        yield from gated(driver, gate, experts)

    monkeypatch.setattr(Driver, "gated", interrupted)
    words = ("--cache-experts", 12, "--policy", "finemoe", "--record", tmp_path / "a.trace", "--out", tmp_path / "out")
    assert validate(arguments(checkpoint, *words)) == 128 + signal.SIGINT
    assert len(layers) == 20
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in said.err
    until = time.monotonic() + 60  # a driver that is not given the processor leaves its threads to end by themselves
    while not threads.issuperset(threading.enumerate()):
        assert time.monotonic() < until, threading.enumerate()
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


INTERRUPTED = """
import sys, os, signal
from validate.__main__ import main
from validate.driver.threaded_driver import Driver
gated = Driver.gated
count = 0
def interrupted(self, gate, experts):
    global count
    count += 1
    if count == 20:
        os.kill(os.getpid(), signal.SIGINT)
    yield from gated(self, gate, experts)
Driver.gated = interrupted
code = main(sys.argv[1:])
print(count, flush=True)
sys.exit(code)
"""


@pytest.mark.slow  # the same in a process that really ends
def test_ctrl_c_in_mid_generation_ends_the_process(checkpoint, tmp_path):
    out = tmp_path / "measured"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            INTERRUPTED,
            *arguments(checkpoint, "--cache-experts", 12, "--policy", "finemoe", "--out", out),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 128 + signal.SIGINT
    assert done.stdout == "20\n"
    assert done.stderr.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in done.stderr
    assert not out.exists()


# ---- policies from outside -------------------------------------------------------------------------------------------

MISUSED = {
    "a layer before the first": "on_batch, iteration 0: the layer of a Prefetch must be from 0 to 2, not -1",
    "an expert twice": "on_batch, iteration 0: a Prefetch of layer 0 has expert 1 twice",
    "on_gate returns a tuple": "on_gate, iteration 0, layer 0: returned 1, which is neither a Prefetch nor a Search",
    "on_layer returns nothing": "on_layer, iteration 0, layer 0: returned None; "
    "it must return a list of Prefetch and Search, or () for nothing",
    "touched fails": "touched, layer 0: ZeroDivisionError: integer division or modulo by zero "
    "(--traceback shows where)",
}


@pytest.mark.parametrize("kind", slow_but([*MISUSED], "an expert twice", "touched fails"))
def test_a_policys_mistake_ends_a_replay_with_one_line(checkpoint, capsys, tmp_path, kind):
    """Nor does it leave a trace that the corrected command would find in its way."""
    spec = f"tests.support.misused_policies:misused,kind={kind}"
    record = ("--record", tmp_path / "a.trace")
    assert validate(arguments(checkpoint, "--policy", spec, "--cache-experts", 8, *record, *FEW)) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: policy {spec}: {MISUSED[kind]}"
    assert list(tmp_path.iterdir()) == []


def test_a_policy_gets_the_rates_of_a_profile_or_none(checkpoint, capsys, tmp_path, monkeypatch):
    """With shared state, its own order of copies and a look at the cache: all that the contract has."""
    seen = []
    start = Policy.start
    monkeypatch.setattr(Policy, "start", lambda self, setup: (seen.append(setup), start(self, setup)))
    policy = "tests.support.learned_policy:learned,least_p=0.2,chunk_bytes=700"
    words = ("--cache-experts", 8, "--policy", policy, "--check", *FEW)
    trace = tmp_path / "replayed.trace"
    found = replayed(checkpoint, capsys, *words, "--record", trace)
    assert [setup.rates for setup in seen] == [None] * len(seen)
    (own,) = found.values()
    assert own["prefetched_copies"] > 0
    assert own["prediction_charged"] is True

    seen.clear()
    shape, profile = Trace.open(trace).shape, tmp_path / "machine.toml"
    write_profile(profile, flat_profile(shape))
    replayed(checkpoint, capsys, *words, "--profile", profile)
    assert {setup.rates.copy_s(shape.expert_bytes) for setup in seen} == {10.0}
    assert {setup.rates.layer_s(1) for setup in seen} == {5.0 + shape.top_k * 4.0 + 1.0}

    assert validate(arguments(checkpoint, *words, "--profile", profile, "--devices", 2)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: --profile: was measured with 1 logical device, but this run has 2 logical devices"
