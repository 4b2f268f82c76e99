"""Labels of runs, in tables, JSON, pictures and results: what does not fit, and what batches ignore."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sim import CacheSize, Scenario, simulate
from sim.__main__ import main
from sim.experiment import Experiment
from sim.hardware.profile import write_profile
from sim.labels import footnotes, labels, marked
from sim.results.summary import ARRIVALS_IGNORED
from sim.sweeps.sweep_run import run_sweep
from tests.support.compare_helpers import passed_off
from tests.support.profiles import flat_profile
from tests.support.run_helpers import EXPERT_BYTES, NO_REFERENCES, SHAPE, arguments
from tests.support.sweep_runs import HERE
from tests.support.trace_helpers import change_values, small_shape, small_trace
from validate.__main__ import main as validate

CHARGED = {"prediction_charged": True}
FITS, EXCEEDS = {"label": "a", "fits": True, **CHARGED}, {"label": "b", "fits": False, **CHARGED}
UNKNOWN = {"label": "c", "fits": None, "prediction_charged": None}
FREE = {"label": "d", "fits": False, "prediction_charged": False}


def test_only_runs_that_certainly_do_not_fit_are_labelled() -> None:
    assert [labels(each) for each in (FITS, EXCEEDS, UNKNOWN)] == [[], ["does not fit"], []]
    assert [marked(each["label"], each) for each in (FITS, EXCEEDS, UNKNOWN)] == ["a", "b *", "c"]


def test_policies_whose_predictions_take_no_time_are_labelled() -> None:
    assert labels(FREE) == ["does not fit", "prediction time not charged"]
    assert marked("d", FREE) == "d * †"


def test_a_label_has_one_mark_and_one_footnote_for_all_its_runs() -> None:
    assert marked("b", EXCEEDS, FITS, EXCEEDS) == "b *"
    (line,) = footnotes([("a", FITS), ("b", EXCEEDS), ("b", EXCEEDS), ("d", EXCEEDS)])
    assert line.startswith("* b, d: does not fit; ")
    assert list(footnotes([("a", FITS), ("c", UNKNOWN)])) == []


@pytest.fixture
def small_machine(tmp_path: Path) -> Path:
    """Room for half of the experts beside everything else."""
    return machine_with(tmp_path / "small.toml", room_bytes=16.5 * EXPERT_BYTES)


def machine_with(path: Path, *, room_bytes: float) -> Path:
    """A machine on which so many bytes are left for the experts of the small trace, which reaches 8 positions."""
    heads, kv = SHAPE.attention_heads * SHAPE.head_dim, 2 * SHAPE.kv_heads * SHAPE.head_dim
    layer = SHAPE.hidden * (2 * heads + kv + SHAPE.experts)
    dense, cached = 4 * layer + 2 * SHAPE.hidden * SHAPE.vocab, 8 * 4 * kv
    path.write_text(f'extends = "paper-a100"\n[gpu]\nmemory_bytes = {2 * (dense + cached) + room_bytes}\n')
    return path


def test_more_experts_than_fit_beside_the_rest_are_refused_with_all_numbers(
    trace: Path, small_machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in ("--cache-experts", 16), ("--cache-share", 0.5), ("--cache-gb", 16 * EXPERT_BYTES / 1e9):
        assert main(arguments(trace, "--machine", small_machine, *size, *NO_REFERENCES, policies=("lru",))) == 0
    capsys.readouterr()
    for option, value in ("--cache-experts", 17), ("--cache-share", 0.54), ("--cache-gb", 17 * EXPERT_BYTES / 1e9):
        assert main(arguments(trace, "--machine", small_machine, option, value, policies=("lru",))) == 2
        said = capsys.readouterr().err
        assert said.startswith(
            f"error: {option}: {value} is too much: 17 experts take 3.264e-06 GB, but small (1 × A100-80GB) has "
        )
        assert " GB, of which dense weights take " in said
        assert said.endswith(" GB, so at most 16 experts fit\n")


def test_a_cache_of_max_is_filled_on_each_machine_of_a_grid(trace: Path, small_machine: Path, tmp_path: Path) -> None:
    """Half of the 32 experts fit on one machine, and all of them on the other."""
    machines = [str(small_machine), "paper-a100"]
    experiment = Experiment(
        scenario=Scenario(trace, policy="lru", cache=CacheSize(gb="max")), grid={"machine": machines}
    )
    found = run_sweep(experiment, store=tmp_path / "store", references=(), workers=HERE).frame
    assert found["cache_experts"].tolist() == [16, 32]
    assert found["fits"].tolist() == [True, True]


def test_a_cache_of_max_has_the_bound_of_the_experts_that_fit(simulate: Any, trace: Path, small_machine: Path) -> None:
    """There is room for 16.5 experts; the link is so slow that the bound is the time of the fewest loads."""
    machine = ("--machine", f"{small_machine},host_link.bytes_per_s=1e5")
    sizes = ("--cache-gb", "max"), ("--cache-experts", 16), ("--cache-experts", 8)
    filled, same, smaller = (simulate(trace, *machine, *size, policies=("lru",))["lru"] for size in sizes)
    assert filled["expert_slots"] == 16
    assert filled == same
    assert 0 < filled["makespan_lower_bound_s"] < smaller["makespan_lower_bound_s"]


def test_more_gigabytes_than_the_gpus_have_are_refused(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though all experts would fit, which is what 24 GB give."""
    for gb, status in (("24", 0), ("24.1", 2), ("1e300", 2)):
        words = ("--machine", "rtx3090", "--cache-gb", gb, *NO_REFERENCES)
        assert main(arguments(trace, *words, policies=("lru",))) == status
    said = "error: --cache-gb: 24.1 is more than the 24 GB of rtx3090"
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(("room", "said"), [(-1, "0 experts; "), (1.5, "1 expert; ")])
def test_a_cache_of_max_needs_room_for_a_layer(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], room: float, said: str
) -> None:
    tight = machine_with(tmp_path / "tight.toml", room_bytes=room * EXPERT_BYTES)
    assert main(arguments(trace, "--machine", tight, "--cache-gb", "max", policies=("lru",))) == 2
    assert capsys.readouterr().err.startswith(f"error: --cache-gb: max gives room for {said}")


def test_the_cache_of_keys_and_values_grows_with_the_batch(trace: Path, tmp_path: Path) -> None:
    """One request more takes 8 positions of 4 layers: some bytes, and the machine has room for none."""
    tight = machine_with(tmp_path / "tight.toml", room_bytes=8 * EXPERT_BYTES)
    words = ("--machine", tight, "--cache-experts", 8, *NO_REFERENCES)
    assert main(arguments(trace, *words, policies=("lru",))) == 0
    assert main(arguments(trace, *words, "--batch-size", 2, policies=("lru",))) == 2
    assert main(arguments(trace, *words, "--batch-size", 2, "--requests", 1, policies=("lru",))) == 0


def test_the_whole_of_mixtral_does_not_fit_on_one_a100(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = small_trace(tmp_path / "a.trace", 3, shape=small_shape(layers=32, experts=8))
    words = ("--sizes", "mixtral-8x7b", "--machine", "paper-a100", *NO_REFERENCES)
    assert main(arguments(trace, *words, "--cache-share", "1.0", policies=("lru",))) == 2
    assert capsys.readouterr().err == (
        "error: --cache-share: 1.0 is too much: 256 experts take 90.19 GB, but paper-a100 (1 × A100-80GB) has 80 GB, "
        "of which dense weights take 3.211 GB and the KV cache 0.001049 GB, so at most 217 experts fit\n"
    )
    assert main(arguments(trace, *words, "--cache-experts", 217, policies=("lru",))) == 0


def test_without_known_memory_nothing_is_checked_and_max_is_refused(
    simulate: Any, trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(tmp_path / "a.toml", flat_profile(SHAPE))
    machine = ("--machine", tmp_path / "a.toml")
    assert main(arguments(trace, *machine, "--cache-gb", "max", policies=("lru",))) == 2
    assert capsys.readouterr().err == (
        "error: --cache-gb: max needs a machine that states its memory (gpu.memory_bytes)\n"
    )
    words = (*machine, "--cache-share", "1.0", *NO_REFERENCES)
    found = simulate(trace, *words, policies=("lru", "no-offload"))
    assert [each["fits"] for each in found.values()] == [None, None]


def test_a_run_that_does_not_fit_is_labelled_in_json_table_picture_and_results(
    simulate: Any, trace: Path, small_machine: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--machine", small_machine, "--cache-experts", 8, *NO_REFERENCES)
    found = simulate(trace, *words, "--out", out, policies=("lru", "no-offload"))
    assert {name: each["fits"] for name, each in found.items()} == {"lru": True, "no-offload": False}
    assert pd.read_parquet(out / "summary.parquet")["fits"].tolist() == [True, False]

    assert main(arguments(trace, *words, policies=("lru", "no-offload"))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith(("lru  ", "no-offload "))] == [
        "lru",
        "no-offload *",
    ] * 2  # of figures, and of where the time goes
    assert sum(line.startswith("* no-offload: does not fit; ") for line in lines) == 1

    picture = out.parent / "a.svg"
    assert main(["plot", str(out), "--out", str(picture)]) == 0
    assert picture.read_text().count("does not fit") == 1


def test_a_reference_run_that_does_not_fit_is_noted(
    trace: Path, small_machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--machine", small_machine, "--cache-experts", 8)
    assert main(arguments(trace, *words, policies=("lru",))) == 0
    assert "\n* no-offload: does not fit; " in capsys.readouterr().out


def test_a_run_that_fits_has_no_label(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = machine_with(tmp_path / "large.toml", room_bytes=32 * EXPERT_BYTES)
    assert main(arguments(trace, "--machine", large, policies=("lru", "no-offload"))) == 0
    assert "does not fit" not in capsys.readouterr().out


def test_a_comparison_with_measured_results_has_the_label(
    trace: Path, small_machine: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--machine", small_machine, "--cache-experts", 8, *NO_REFERENCES, "--out", out)
    assert main(arguments(trace, *words, policies=("lru", "no-offload"))) == 0
    measured = passed_off(out, out.with_name("measured"))
    capsys.readouterr()
    assert validate(["compare", str(out), str(measured)]) == 0
    printed = capsys.readouterr().out
    assert "no-offload *" in printed
    assert "lru *" not in printed
    assert printed.count("\n* no-offload: does not fit; ") == 1


def test_a_note_says_that_batches_ignore_arrival_times(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every second request of the trace has one."""
    result = simulate(Scenario(trace, policy="lru", cache=CacheSize(experts=8)))
    assert result.summary["note"] == ARRIVALS_IGNORED
    assert main(arguments(trace, policies=("lru",))) == 0
    assert f"belady: {ARRIVALS_IGNORED}" in " ".join(capsys.readouterr().out.split())
    assert main(arguments(trace, "--brief", *NO_REFERENCES, policies=("lru",))) == 0
    assert f"lru: {ARRIVALS_IGNORED}" in " ".join(capsys.readouterr().out.split())


def test_a_trace_without_arrival_times_has_no_such_note(tmp_path: Path) -> None:
    plain = small_trace(tmp_path / "plain.trace", 10, shape=SHAPE)

    def forget(arrivals: list[float | None]) -> None:
        arrivals[:] = [None] * len(arrivals)

    change_values(plain, "requests.parquet", "arrival_s", forget)
    assert simulate(Scenario(plain, policy="lru", cache=CacheSize(experts=8))).summary["note"] is None
