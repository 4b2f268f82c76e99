"""Run a command: the one place where every way of ending gets its line on stderr and its exit status.

| ends by | line on stderr | status |
|---|---|---|
| success | | 0, or what the command returns |
| a mistake in what the user gave | `error: …` | 2 |
| a file or disk that the system refuses, too little memory | `error: …` | 2 |
| Ctrl-C, SIGTERM, SIGHUP | `interrupted; …` | 130, 143, 129 |
| standard output closed by its reader | | 0 |

Only errors in the code itself show a traceback. Libraries for commands are imported within `call`, where an
interruption is clean.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import IO, Any, cast

from common.errors import UserError, one_line, reason
from common.interruptions import Interruption, Resumes, interruptible
from common.listed_command import Command, IfGiven


def call(
    program: str,
    description: str,
    commands: Mapping[str, Command],
    argv: Sequence[str] | None,
    *,
    version: Callable[[], str] | None = None,
) -> int:
    """Run a command of `program`, for example `finemoe sim`, and return its exit status.

    A program with a `version` has the option `--version`, which prints it.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        with interruptible(resumes=_resumes(commands, words)), _watched_output():
            from common.applications import run

            return run(program, description, commands, words, version=version)
    except UserError as error:
        return _refused(str(error))
    except KeyboardInterrupt as error:
        interruption = error if isinstance(error, Interruption) else Interruption()
        _say(interruption.line)
        return interruption.status
    except _OutputError as error:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains as it ends
        if isinstance(error.__cause__, BrokenPipeError):
            return 0
        return _refused(f"standard output cannot be written: {error.strerror}")
    except MemoryError as error:
        return _refused(f"out of memory: {one_line(error)}" if str(error) else "out of memory")
    except OSError as error:
        what = reason(error)
        return _refused(what if error.filename is None else f"{os.fsdecode(error.filename)}: {what}")


def _resumes(commands: Mapping[str, Command], words: Sequence[str]) -> Resumes:
    """Whether the called command, after an interruption, keeps what was finished."""
    command = commands.get(words[0]) if words else None
    if command is None:
        return "never"
    if isinstance(command.resumes, IfGiven):
        return "always" if command.resumes.given(words) else "never"
    return command.resumes


class _OutputError(OSError):
    """Standard output cannot be written."""


class _Output:
    """A stream whose errors can be distinguished from those of other files."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _as_output_errors():
            return self._stream.write(text)

    def flush(self) -> None:
        with _as_output_errors():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Asides:
    """Standard error, for progress and notes. Failing to write them does not stop the work."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _as_output_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _OutputError(error.errno, error.strerror) from error


@contextmanager
def _watched_output() -> Iterator[None]:
    """Within the block stdout is written to the end, or raises an `_OutputError`; errors of stderr are ignored."""
    if sys.stdout is None:  # closed by whoever called us
        yield
        return
    output, asides = cast("IO[str]", _Output(sys.stdout)), cast("IO[str]", _Asides(sys.stderr))
    with redirect_stdout(output), redirect_stderr(asides if sys.stderr else sys.stderr):
        yield
        output.flush()


def _refused(text: str) -> int:
    _say(f"error: {' '.join(text.splitlines())}")
    return 2


def _say(line: str) -> None:
    with suppress(OSError):  # nobody listens
        print(line, file=sys.stderr, flush=True)
