"""Repetitive traces are labelled in every table, figure and result; natural ones are not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sim import Experiment, Scenario, read_results
from sim.__main__ import main as sim
from tests.support.compare_helpers import passed_off
from tests.support.run_helpers import NO_REFERENCES, SHAPE, arguments, commands_of_sim
from tests.support.slow_cases import slow_but
from tests.support.trace_helpers import random_request, small_meta, write_trace
from traces.__main__ import main as traces
from validate.__main__ import main as validate

WORD, WHY = "REPETITIVE", "50% of the decode rows occurred before"
MADE_UP = ("SYNTHETIC", "FITTED")  # these traces are neither

# Of commands that simulate or draw: `test_provenance.py` has them say nothing of a natural trace in `make test`, too.
repetitive_alone = pytest.mark.parametrize(
    "repetitive", slow_but([True, False], True), indirect=True, ids=["repetitive", "natural"]
)


@pytest.fixture(scope="module", params=[True, False], ids=["repetitive", "natural"])
def repetitive(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def trace(repetitive: bool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten requests; the second half are the first once more if it is to be repetitive."""
    meta = small_meta(kind="captured", shape=SHAPE)
    pairs = [random_request(number % 5 if repetitive else number, meta) for number in range(10)]
    own = [(replace(info, request=at), replace(one, request=at)) for at, (info, one) in enumerate(pairs)]
    return write_trace(tmp_path_factory.mktemp("trace") / "some.trace", meta, [own])


@pytest.fixture(scope="module")
def results(trace: Path) -> Path:
    out = trace.with_name("results")
    assert sim(arguments(trace, "--out", out, "--detail", "events", *NO_REFERENCES, policies=("lru",))) == 0
    return out


@pytest.fixture
def said(repetitive: bool, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command; looks for the warning, and no other, in the texts of its picture, and in what it `prints`."""

    def run(main: Any, *words: Any, picture: Path | None = None, prints: bool = False) -> None:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 0
        printed = capsys.readouterr().out
        for text in ([picture.read_text()] if picture else []) + ([printed] if prints or not picture else []):
            assert [word in text for word in (WORD, WHY)] == [repetitive] * 2
            assert not any(word in text for word in MADE_UP)

    return run


def test_collect_says_it_below_the_progress(
    repetitive: bool, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recording itself is replaced by a trace that is there."""
    monkeypatch.setattr("traces.capture.collection.collect", lambda settings, prompts: trace)
    words = ["collect", "pocket", "--prompts", "built-in", "--max-new-tokens", "1", "--out", str(tmp_path / "a.trace")]
    assert traces(words) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{trace}\n"
    assert [word in printed.err for word in (WORD, WHY)] == [repetitive] * 2


def test_info_fits_into_100_columns(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert traces(["info", str(trace)]) == 0
    _, *lines = capsys.readouterr().out.splitlines()  # the first one is the path
    assert max(map(len, lines)) <= 100


def test_commands_of_traces_say_it(said: Any, trace: Path) -> None:
    said(traces, "info", trace)
    said(traces, "analyse", trace)


@repetitive_alone
def test_commands_of_sim_say_it(said: Any, trace: Path, results: Path, tmp_path: Path) -> None:
    commands_of_sim(said, trace, results, tmp_path)


@repetitive_alone
def test_a_history_says_it(repetitive: bool, trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = small_meta(kind="captured", shape=SHAPE)
    plain = write_trace(tmp_path / "plain.trace", meta, [[random_request(20 + at, meta) for at in range(10)]])
    assert sim(arguments(plain, "--history", trace, *NO_REFERENCES, policies=("lru",))) == 0
    printed = capsys.readouterr().out
    assert (f"learned from some.trace (captured, {WORD})" in printed) == repetitive
    assert (f"{WORD} some.trace: {WHY}" in printed) == repetitive
    assert f"{WORD} plain.trace" not in printed
    experiment = Experiment(
        scenario=Scenario(plain, policy="lru", machine="rtx3090", history=trace), grid={"seed": [0]}
    )
    experiment.write(tmp_path / "sweep.toml")
    words = ["sweep", str(tmp_path / "sweep.toml"), "--store", str(tmp_path / "store"), "--jobs", "1"]
    assert sim([*words, "--references", "none", "--out", str(tmp_path / "sweep")]) == 0
    printed = capsys.readouterr().out
    assert (f"{WORD} some.trace: {WHY}" in printed) == repetitive
    assert f"{WORD} plain.trace" not in printed
    assert sim(["plot", str(tmp_path / "sweep"), "--out", str(tmp_path / "a.svg")]) == 0
    assert (f"{WORD} some.trace" in (tmp_path / "a.svg").read_text()) == repetitive


@repetitive_alone
def test_sweeps_say_it(said: Any, repetitive: bool, trace: Path, tmp_path: Path) -> None:
    experiment = Experiment(
        scenario=Scenario(trace, policy="lru", machine="rtx3090"), grid={"cache.share": [0.25, 0.5]}
    )
    experiment.write(tmp_path / "sweep.toml")
    out = tmp_path / "out"
    said(sim, "sweep", tmp_path / "sweep.toml", "--store", tmp_path / "store", "--jobs", 1, "--out", out)
    said(sim, "plot", out, "--out", tmp_path / "a.svg", picture=tmp_path / "a.svg")
    said(sim, "plot", out, "--pareto", "--out", tmp_path / "b.svg", picture=tmp_path / "b.svg")
    table = pd.read_parquet(out / "sweep.parquet")
    assert table["trace_repeated_rows"].tolist() == [0.5 * repetitive] * 2
    assert table["trace_warning"].dropna().tolist() == [WHY] * 2 * repetitive


@repetitive_alone
def test_comparisons_say_it(said: Any, results: Path, tmp_path: Path) -> None:
    measured = passed_off(results, tmp_path / "measured")
    compare = ["compare", results, measured]
    said(validate, *compare, "--plot", tmp_path / "a.svg", prints=True, picture=tmp_path / "a.svg")


def test_results_and_json_output_contain_it_too(
    repetitive: bool, trace: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (result,) = read_results(results)
    reported = result.provenance["trace"]
    assert reported["naturalness"]["decode"]["repeated_rows"] == 0.5 * repetitive
    assert reported["warning"] == (WHY if repetitive else None)
    assert sim(arguments(trace, "--json", *NO_REFERENCES, policies=("lru",))) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["trace_warning"] == reported["warning"]
    assert run["trace_nearest_map_recall"] == reported["naturalness"]["decode"]["nearest_map_recall"]
    assert sim(["predict", str(trace), "--policy", "finemoe", "--distance", "1", "--json"]) == 0
    assert all(each["trace_warning"] == reported["warning"] for each in json.loads(capsys.readouterr().out))


@repetitive_alone
def test_pictures_of_an_analysis_say_it(
    repetitive: bool, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []
    monkeypatch.setattr(
        "traces.analysis.analysis_figures.save", lambda drawn, path, dpi: titles.append(drawn.get_suptitle())
    )
    assert traces(["analyse", str(trace), "--out", str(tmp_path / "out")]) == 0
    assert len(titles) > 3
    assert all((WORD in title) == repetitive for title in titles)


def test_a_store_keeps_what_was_measured(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = arguments(trace, "--store", tmp_path / "store", *NO_REFERENCES, policies=("lru",))
    assert sim(words) == 0

    def again(trace: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("sim.trace_naturalness.naturalness_of", again)
    assert sim(words) == 0


def test_no_other_module_chooses_the_word() -> None:
    root = Path(__file__).parents[3]
    files = [file for package in ("policies", "traces", "sim", "validate") for file in (root / package).rglob("*.py")]
    assert [file.name for file in files if WORD in file.read_text()] == ["provenance.py"]
