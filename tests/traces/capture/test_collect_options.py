"""Options of `collect` come from frozen settings: help and mistakes appear at once, in the user's words."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.errors import FieldError, UserError
from common.settings import from_data, to_data
from traces.__main__ import main
from traces.capture.capture_settings import CollectSettings, Generation, Lengths, PlacedModel, Recording
from traces.pocket.recipe import RECIPES
from traces.pocket_training.__main__ import main as train

HEAVY = {"torch", "transformers", "datasets", "pandas", "pyarrow", "sklearn", "matplotlib"}
NAMED = ("--prompts", "built-in", "--max-new-tokens", "4", "--out", "none.trace")


HELP = {"traces": ["collect", "prompts", "info", "check"], "traces.pocket_training": ["corpus", "train", "evaluate"]}
MISTAKES = {
    "traces": [
        ("collect", "pocket", *NAMED, "--prompts", "built-on"),
        ("collect", "pocket", *NAMED, "--limit", "9", "--sample", "10"),
        ("collect", "pocket", *NAMED, "--out", "none.parquet"),
        ("collect", "pocket", *NAMED, "--lookahead", "0"),
        ("collect", "pocket", *NAMED, "--lookahed", "1"),
        ("collect", "pocket", *NAMED[:2], *NAMED[4:]),
        ("check", "a.trace", "--max-problems", "0"),
    ],
    "traces.pocket_training": [("train", "--cache", "none", "--out", "none")],
}
ONE_BY_ONE = f"""
import importlib, json, sys

ran = []
for package, words in json.loads(sys.argv[1]):
    status = importlib.import_module(package + ".__main__").main(words)
    ran.append((status, sorted({HEAVY!r} & sys.modules.keys())))
print(json.dumps(ran))
"""


@pytest.fixture(scope="module")
def imported() -> dict[tuple[str, ...], tuple[int, list[str]]]:
    """Exit statuses of mistakes and of help, one by one in a new interpreter, and its heavy modules after each."""
    mistakes = [(package, *words) for package, some in MISTAKES.items() for words in some]
    commands = [*mistakes, *((package, *words) for package in HELP for words in helps(package))]
    line = [sys.executable, "-c", ONE_BY_ONE, json.dumps([(package, words) for package, *words in commands])]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    found = [(status, modules) for status, modules in json.loads(done.stdout.splitlines()[-1])]
    return dict(zip(commands, found, strict=True))


def helps(package: str) -> list[tuple[str, ...]]:
    return [("--help",), *((command, "--help") for command in HELP[package])]


@pytest.mark.parametrize("package", HELP)
def test_help_imports_nothing_heavy(imported: dict[tuple[str, ...], tuple[int, list[str]]], package: str) -> None:
    assert [imported[package, *words] for words in helps(package)] == [(0, [])] * (1 + len(HELP[package]))


@pytest.mark.parametrize("package", MISTAKES)
def test_a_mistake_that_is_cheap_to_see_imports_nothing_heavy(
    imported: dict[tuple[str, ...], tuple[int, list[str]]], package: str
) -> None:
    assert [imported[package, *words] for words in MISTAKES[package]] == [(2, [])] * len(MISTAKES[package])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pocket", *NAMED, "--lookahed", "1"), "unknown option --lookahed; did you mean --lookahead?"),
        (("pocket", "--promts", "built-in", *NAMED[2:]), "unknown option --promts; did you mean --prompts?"),
        (NAMED, "MODEL: is required"),
        (("pocket", *NAMED[:4]), "--out: is required"),
        (("pocket", *NAMED[:2], *NAMED[4:]), "--max-new-tokens or --output-tokens is required"),
        (("pocket", *NAMED, "--output-tokens", "3"), "--output-tokens: cannot be combined with --max-new-tokens"),
        (("pocket", *NAMED, "--batch-size", "8", "--batch-tokens", "99"), "--batch-tokens: cannot be combined with"),
        (("pocket", *NAMED, "--greedy", "--temperature", "1"), "--greedy: cannot be combined with --temperature"),
        (("pocket", *NAMED, "--greedy", "--continue-text"), "--greedy: cannot be combined with --continue-text"),
        (
            ("pocket", *NAMED, "--temperature", "1", "--continue-text"),
            "--temperature: cannot be combined with --continue-text",
        ),
        (("pocket", *NAMED[2:]), "--prompts or --continue-text is required"),
        (("pocket", *NAMED, "--threads", "0"), "--threads: must be at least 1, not 0"),
        (
            ("pocket", *NAMED, "--batch-size", "2.5"),
            "--batch-size: must be a whole number, not '2.5'",
        ),
        (("pocket", *NAMED, "--temperature", "inf"), "--temperature: must be a finite number, not inf"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_mistakes_name_options(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", *words]) == 2
    (reported,) = capsys.readouterr().err.splitlines()
    assert reported.startswith(f"error: {said}")


def test_an_error_in_the_middle_of_a_run_names_options_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collect", "pocket", "--prompts", "built-in", "--limit", "1", "--out", str(tmp_path / "a.trace")]
    assert main([*words, "--max-new-tokens", "4000"]) == 2
    (reported,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert reported.endswith("context of 1024; --prompt-tokens cuts prompts, --max-prompt-chars skips long ones")


@pytest.mark.parametrize(
    ("kind", "values", "field"),
    [
        (Lengths, {"max_new_tokens": 3, "output_tokens": 3}, "output_tokens"),
        (Lengths, {"prompt_tokens": 0}, "prompt_tokens"),
        (Generation, {"batch_size": 8, "batch_tokens": 99}, "batch_tokens"),
        (Generation, {"temperature": float("nan")}, "temperature"),
        (Generation, {"seed": -1}, "seed"),
        (PlacedModel, {"model": "pocket", "device": "cpu", "device_map": "auto"}, "device_map"),
        (PlacedModel, {"model": "pocket", "dtype": "int8"}, "dtype"),
        (Recording, {"lookahead": (1, 0)}, "lookahead"),
    ],
)
def test_settings_check_themselves_and_name_the_field(kind: Any, values: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as reported:
        kind(**values)
    assert reported.value.field == field
    assert "--" not in str(reported.value)


def test_a_collection_needs_a_number_of_new_tokens_which_others_may_leave_to_a_default() -> None:
    settings = {"model": {"model": "pocket"}, "lengths": {"chat_template": True}, "target": {"out": "a.trace"}}
    with pytest.raises(UserError, match=r"^`max_new_tokens` or `output_tokens` is required$"):
        from_data(CollectSettings, settings)
    assert Lengths(chat_template=True).or_at_most(48) == Lengths(max_new_tokens=48, chat_template=True)
    assert Lengths(output_tokens=7).or_at_most(48) == Lengths(output_tokens=7)
    assert (Lengths(output_tokens=7).new_tokens, Lengths(output_tokens=7).exactly) == (7, True)
    assert (Lengths(max_new_tokens=7).new_tokens, Lengths(max_new_tokens=7).exactly) == (7, False)


def test_settings_become_data_and_again_what_they_were() -> None:
    data = {
        "model": {"model": "pocket", "dtype": "bfloat16"},
        "lengths": {"output_tokens": 4},
        "recording": {"lookahead": [3, 1, 3]},
        "target": {"out": "a.trace"},
    }
    settings = from_data(CollectSettings, data)
    assert settings.recording.lookahead == (1, 3)
    assert settings.generation == Generation()
    assert from_data(CollectSettings, to_data(settings)) == settings


def test_help_lists_every_model_that_ships_with_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    for call, words in ((main, ["collect", "--help"]), (train, ["corpus", "--help"])):
        assert call(words) == 0
        shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert [name for name in RECIPES if name not in shown] == []
