"""How the words of a command line become the values of settings."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest

from common.applications import OUTPUT, under
from common.errors import FieldError
from common.listed_command import Command
from common.program import call
from common.settings import Suffix, check


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Of every kind that is read in a way of its own."""

    shares: tuple[float, ...] = ()
    """Numbers."""
    names: tuple[str, ...] = ()
    """Texts."""
    count: int | None = None
    """A whole number."""
    out: Annotated[Path, Suffix(".png", ".svg")] | None = None
    """A picture."""

    def __post_init__(self) -> None:
        check(self)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The settings that a command of these words gets, or the exit status."""
    found = []

    def command(settings: Annotated[Example, under(OUTPUT)] = Example()) -> None:
        found.append(settings)

    module = ModuleType("example_commands")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "example_commands", module)

    def run(*words: str) -> Example | int:
        commands = {"command": Command("example_commands:command", "Does it.")}
        return call("example", "An example.", commands, ["command", *words]) or found.pop()

    return run


def test_numbers_may_have_commas_or_be_repeated_and_texts_keep_theirs(run: Callable[..., Any]) -> None:
    assert run("--shares", "0.5,1", "--shares", "-2").shares == (0.5, 1.0, -2.0)
    assert run("--names", "a,b", "--names", "c").names == ("a,b", "c")


def test_the_last_of_a_repeated_option_counts(run: Callable[..., Any]) -> None:
    assert run("--count", "1", "--count", "2").count == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--count", "1.5"], "--count: must be a whole number, not '1.5'"),
        (["--shares", "1,x"], "--shares: must be a number, not 'x'"),
        (["--out", "a.jpg"], "--out: must be a name that ends in .png or .svg, not a.jpg"),
    ],
)
def test_an_invalid_value_is_one_line(
    run: Callable[..., Any], words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_the_name_of_a_file_must_have_one_of_its_suffixes() -> None:
    assert Example(out=Path("a.svg")).out == Path("a.svg")
    assert Example().out is None
    with pytest.raises(FieldError, match=r"^out: must be a name that ends in \.png or \.svg, not a$"):
        Example(out=Path("a"))


def test_a_name_that_is_not_utf8_is_refused_before_anything_begins(
    run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--out", "bad\udcff.png") == 2
    assert capsys.readouterr().err == "error: 'bad\\udcff.png' is not valid UTF-8\n"
