"""Scenarios on the command line: written, read back, overridden; and what asking for help costs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sim.__main__ import main
from tests.support.run_helpers import NO_REFERENCES, arguments

ROOT = Path(__file__).parents[2]


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_a_saved_scenario_gives_the_same_figures(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.toml"
    more = ("--cache-experts", 9, "--seed", 3, "--batch-size", 2, "--save-scenario", file)
    words = arguments(trace, *NO_REFERENCES, *more, policies=("finemoe", "lru"))
    first = printed(capsys, *words)
    assert printed(capsys, "run", "--scenario", file, *NO_REFERENCES) == first


def test_options_override_the_file(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.toml"
    more = ("--cache-gb", 2e-6, "--seed", 3, "--save-scenario", file)
    printed(capsys, *arguments(trace, *NO_REFERENCES, *more, policies=("finemoe", "belady")))
    found = printed(
        capsys, "run", "--scenario", file, "--policy", "lru", "--cache-share", 0.5, "--seed", 4, *NO_REFERENCES
    )
    assert [(each["policy"], each["expert_slots"], each["seed"]) for each in found] == [("lru", 16, 4)]
    assert found == printed(
        capsys, *arguments(trace, *NO_REFERENCES, "--cache-share", 0.5, "--seed", 4, policies=("lru",))
    )


def test_a_scenario_is_saved_once_it_has_run_and_replaces_nothing_else(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.toml"
    words = ["run", str(trace), "--policy", "lru", *NO_REFERENCES, "--save-scenario"]
    assert main([*words, str(file), "--policy", "none-such"]) == 2
    assert not file.exists()
    assert main([*words, str(file)]) == 0
    assert 'policy = "lru"' in file.read_text()
    capsys.readouterr()
    assert main([*words, str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {file} exists already")
    assert main([*words, str(file), "--overwrite", "--seed", "5"]) == 0
    assert "seed = 5" in file.read_text()
    refused = f"{file} cannot be replaced, because it is something else: "
    for other, content, said in (
        (tmp_path / "mine.py", "a policy", "--save-scenario: must be a name that ends in .toml"),
        (file, "gpus = 1", f"{refused}{file}: "),
        (file, f"{file.read_text()}\n[grid]\nseed = [1, 2]", f"{refused}it is a sweep over seed"),
    ):
        other.write_text(content)
        assert main([*words, str(other), "--overwrite"]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {said}")
        assert other.read_text() == content


def test_prediction_takes_the_same_file(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.toml"
    words = ("predict", trace, "--policy", "finemoe", "--distance", 2, "--seed", 3)
    first = printed(capsys, *words, "--save-scenario", file)
    assert printed(capsys, "predict", "--scenario", file, "--distance", 2) == first
    assert "seed = 3" in file.read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[scenario]\nsede = 1", "scenario.sede: is not a setting; did you mean 'seed'?"),
        ("[scenario]\ncache.gb = 0", "scenario.cache.gb: must be above 0, not 0.0"),
    ],
)
def test_a_mistake_in_the_file_names_it(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    assert main(["run", str(trace), "--scenario", str(file)]) == 2
    assert capsys.readouterr().err == f"error: {file}: {said}\n"


def test_a_trace_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--policy", "lru"]) == 2
    assert capsys.readouterr().err == "error: --trace: is required\n"


def test_a_misspelt_option_offers_the_nearest(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(trace), "--cache-shar", "0.5"]) == 2
    assert capsys.readouterr().err == "error: unknown option --cache-shar; did you mean --cache-share?\n"


@pytest.mark.parametrize("command", ["run", "predict"])
def test_help_is_grouped_and_shows_defaults(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([command, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in ("What to run", "Output", "[default: 0.7]", "[default: finemoe]", "--scenario", "--save-scenario"):
        assert part in said
    assert ("Machine and cache" in said) == (command == "run")
    assert ("[default: rtx3090x6]" in said) == (command == "run")


def test_unneeded_libraries_are_not_imported() -> None:
    """Neither by help nor by the package: torch, scikit-learn and matplotlib never, pandas and pyarrow not by help.

    One interpreter does it all: what a step has imported is still there when the next one is looked at.
    """
    never = {"torch", "sklearn", "matplotlib", "transformers"}
    steps = [
        ("import sim", {"numpy", "pandas", "pyarrow"}),
        ("from sim.__main__ import main; main(['run', '--help'])", {"pandas", "pyarrow", "simpy"}),
        ("main(['predict', '--help'])", {"pandas", "pyarrow"}),
        ("from sim import Scenario, simulate, Result", set()),
    ]
    looks = [
        f"{code}; import sys; print('imported', sorted({heavy | never!r} & sys.modules.keys()))"
        for code, heavy in steps
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(looks)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("imported ")]
    assert found == ["imported []"] * len(steps)
