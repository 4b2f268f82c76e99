"""A signal in the middle of a long command: one line, its status, and no output that looks whole."""

import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from common.console import main

pytest.importorskip("torch")
ROOT = Path(__file__).parents[1]

# Runs a command; CLASS.METHOD sends the signal the second time that it is called.
PROGRAM = """
import os, sys
from importlib import import_module
from common.console import main
module, kind, name, number, *words = sys.argv[1:]
changed = getattr(import_module(module), kind)
method, calls = getattr(changed, name), []
def interrupted(*given, **named):
    calls.append(name)
    if len(calls) == 2:
        os.kill(os.getpid(), int(number))
    return method(*given, **named)
setattr(changed, name, interrupted)
status = main(words)
print(len(calls))
sys.exit(status)
"""


COMMANDS = pytest.mark.parametrize(
    ("place", "command", "line", "left"),
    [
        (
            "traces.format.writer TraceWriter write_part",
            "traces collect pocket --continue-text --max-new-tokens 1 --limit 3 --batch-size 1 --out a.trace",
            "run the same command again to resume",
            ["a.trace.partial"],
        ),
        (
            "traces.format.writer TraceWriter write_part",
            "traces synthetic --layers 2 --requests 40 --seed 1 --restart --out a.trace",
            "run the same command again without --restart to resume",
            ["a.trace.partial"],
        ),
        (
            "validate.rates.device_timer DeviceTimer timed",
            "validate measure --device cpu --quick --out a",
            "nothing was kept",
            [],
        ),
    ],
)


@COMMANDS
def test_a_signal_in_the_middle_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    command: str,
    line: str,
    left: list[str],
) -> None:
    module, kind, name = place.split()
    changed = getattr(import_module(module), kind)
    method, calls = getattr(changed, name), []

    def interrupted(*given: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return method(*given, **named)

    monkeypatch.setattr(changed, name, interrupted)
    monkeypatch.chdir(tmp_path)
    assert (main(command.split()), len(calls)) == (128 + signal.SIGTERM, 2)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1] == f"ended by SIGTERM; {line}"
    assert "Traceback" not in said.err
    assert sorted(each.name for each in tmp_path.iterdir()) == left


@pytest.mark.slow  # the same in a process that really ends
@COMMANDS
def test_a_signal_in_the_middle_ends_the_process(
    tmp_path: Path, place: str, command: str, line: str, left: list[str]
) -> None:
    words = [sys.executable, "-c", PROGRAM, *place.split(), str(signal.SIGTERM.value), *command.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path, env=environment
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "2\n")
    assert done.stderr.splitlines()[-1] == f"ended by SIGTERM; {line}"
    assert "Traceback" not in done.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == left
