"""A signal in the middle of a long command: one line, its status, and no output that looks whole."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("place", "command", "line", "left"),
    [
        (
            "traces.format.writer TraceWriter write_part",
            "traces collect pocket --continue-text --max-new-tokens 1 --limit 3 --batch-size 1 --out a.trace",
            "run the same command again to resume",
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
def test_a_signal_in_the_middle_is_one_line(
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
