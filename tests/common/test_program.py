"""Whatever ends a command, the user reads one line, and a script sees it from the status."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from common.errors import FieldError, UserError
from common.listed_command import Command
from common.program import call
from sim.__main__ import COMMANDS
from tests.support.slow_cases import slow_but

SIM = [sys.executable, "-m", "sim"]
# Output that is written when the command ends, as everywhere unless this is set.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
PRINTING = [["policies"], ["policies", "--json"], ["run", "--help"]]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[BaseException], str]:
    """The line of a command that raises an error, which ends with status 2."""

    def ends(error: BaseException) -> str:
        def command() -> None:
            raise error

        module = ModuleType("example_commands")
        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "example_commands", module)
        assert call("example", "", {"command": Command("example_commands:command", "")}, ["command"]) == 2
        out, line = capsys.readouterr()
        assert (out, line.count("\n")) == ("", 1)
        return line

    return ends


def test_every_user_error_is_one_line(ends: Callable[[BaseException], str]) -> None:
    assert ends(UserError("a.trace: a mistake\nin two lines")) == "error: a.trace: a mistake in two lines\n"
    assert ends(FieldError("cache.gb", "must be above 0, not 0")) == "error: --cache-gb: must be above 0, not 0\n"


def test_an_error_of_the_operating_system_names_the_file(ends: Callable[[BaseException], str]) -> None:
    for number in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO):
        said = os.strerror(number)
        assert ends(OSError(number, said, "results/a.parquet")) == f"error: results/a.parquet: {said}\n"
        assert ends(OSError(number, said)) == f"error: {said}\n"


def test_a_lack_of_memory_is_one_line(ends: Callable[[BaseException], str]) -> None:
    assert ends(MemoryError()) == "error: out of memory\n"
    assert ends(MemoryError("Unable to allocate 3 TiB")) == "error: out of memory: Unable to allocate 3 TiB\n"


def test_a_mistake_in_the_code_shows_where_it_is(ends: Callable[[BaseException], str]) -> None:
    with pytest.raises(ZeroDivisionError):
        ends(ZeroDivisionError())


@pytest.mark.parametrize("words", [["--store", "kept"], ["--store=kept"], []])
@pytest.mark.parametrize("variable", ["kept", ""])
def test_ctrl_c_promises_what_a_store_keeps(
    words: list[str], variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*, store: str = "") -> None:
        raise KeyboardInterrupt

    module = ModuleType("example_commands")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "example_commands", module)
    monkeypatch.setenv("FINEMOE_STORE", variable)
    run = Command("example_commands:command", "", resumes=COMMANDS["run"].resumes)
    assert call("example", "", {"run": run}, ["run", *words]) == 130
    promised = "run the same command again to resume" if words or variable else "nothing was kept"
    assert capsys.readouterr().err == f"interrupted; {promised}\n"


@pytest.mark.parametrize("words", slow_but([*PRINTING, ["machines"], ["--help"]], *PRINTING[::2]))
def test_a_full_disk_behind_standard_output_is_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [*SIM, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120, env=BUFFERED
        )
    assert (ran.stderr, ran.returncode) == (
        "error: standard output cannot be written: No space left on device\n",
        2,
    )


@pytest.mark.parametrize("words", slow_but(PRINTING, PRINTING[-1]))
def test_a_reader_that_has_had_enough_is_no_mistake(words: list[str]) -> None:
    read, write = os.pipe()
    process = subprocess.Popen([*SIM, *words], stdout=write, stderr=subprocess.PIPE, text=True, env=BUFFERED)
    os.close(write)
    os.close(read)
    assert (process.communicate(timeout=120)[1], process.returncode) == ("", 0)


def test_standard_output_may_be_closed() -> None:
    ran = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *SIM, "policies"], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (ran.stderr, ran.returncode) == ("", 0)


def test_the_work_goes_on_if_nobody_reads_its_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        for stream in (sys.stderr, sys.stdout):
            print("half way", file=stream, flush=True)

    module = ModuleType("example_commands")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "example_commands", module)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        assert call("example", "", {"run": Command("example_commands:command", "")}, ["run"]) == 0
        os.dup2(os.open(os.devnull, os.O_WRONLY), closed.fileno())  # for the text that is still in its buffer
