"""Synthetic and fitted traces are labelled in every table and figure; recorded traces are not."""

import json
from pathlib import Path
from typing import Any

import pytest

from sim.__main__ import main as sim
from tests.support.compare_helpers import passed_off
from tests.support.run_helpers import NO_REFERENCES, SHAPE, arguments, commands_of_sim
from tests.support.slow_cases import slow_but
from tests.support.trace_helpers import small_trace
from traces.__main__ import main as traces
from traces.format import provenance
from traces.format.schema import KINDS
from validate.__main__ import main as validate

MADE_UP = {"synthetic": "SYNTHETIC", "fitted": "FITTED"}
REPETITIVE = "REPETITIVE"  # these traces are not

# Of commands that simulate or draw: `test_repetitive_label.py` has them label no recorded trace in `make test`, too.
synthetic_alone = pytest.mark.parametrize("kind", slow_but(KINDS, "synthetic"), indirect=True)


@pytest.fixture(scope="module", params=slow_but(KINDS, "captured", "synthetic"))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def trace(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_trace(tmp_path_factory.mktemp(kind) / "some.trace", 10, shape=SHAPE, kind=kind)


@pytest.fixture(scope="module")
def results(trace: Path) -> Path:
    out = trace.with_name("results")
    assert sim(arguments(trace, "--out", out, "--detail", "events", *NO_REFERENCES, policies=("lru",))) == 0
    return out


@pytest.fixture
def said(kind: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command; looks for the kind, and no warning, in the texts of its picture, and in what it `prints`."""

    def run(main: Any, *words: Any, picture: Path | None = None, prints: bool = False) -> None:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 0
        printed = capsys.readouterr().out
        texts = ([picture.read_text()] if picture else []) + ([printed] if prints or not picture else [])
        for text in texts:
            assert REPETITIVE not in text
            for name, word in MADE_UP.items():
                assert (word in text) == (kind == name)
        assert (picture and not prints) or provenance.label(kind) in printed

    return run


@pytest.mark.parametrize("command", ["info", "check", "analyse"])
def test_commands_of_traces_say_it(said: Any, trace: Path, command: str) -> None:
    said(traces, command, trace)


@synthetic_alone
def test_commands_of_sim_say_it(said: Any, trace: Path, results: Path, tmp_path: Path) -> None:
    commands_of_sim(said, trace, results, tmp_path)


@synthetic_alone
def test_comparisons_say_it(said: Any, results: Path, tmp_path: Path) -> None:
    measured = passed_off(results, tmp_path / "measured")
    compare = ["compare", results, measured]
    said(validate, *compare, "--plot", tmp_path / "a.svg", prints=True, picture=tmp_path / "a.svg")


def test_json_output_contains_it_too(kind: str, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reported = {"trace_kind": kind}
    assert sim(arguments(trace, "--json", *NO_REFERENCES, policies=("lru",))) == 0
    assert all(reported.items() <= each.items() for each in json.loads(capsys.readouterr().out))
    assert sim(["predict", str(trace), "--policy", "finemoe", "--distance", "1", "--json"]) == 0
    assert all(reported.items() <= each.items() for each in json.loads(capsys.readouterr().out))
    for command in ("info", "analyse"):
        assert traces([command, str(trace), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["kind"] == kind


def test_no_module_chooses_the_words_by_itself() -> None:
    root = Path(__file__).parents[3]
    files = [file for package in ("policies", "traces", "sim", "validate") for file in (root / package).rglob("*.py")]
    assert [file.name for file in files if any(word in file.read_text() for word in MADE_UP.values())] == [
        "provenance.py"
    ]
