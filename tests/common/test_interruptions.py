"""A signal ends a command with one line and its status, whatever the command is doing, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from common import interruptions
from common.interruptions import Interruption, interruptible
from tests.support.slow_cases import slow_but

ROOT = Path(__file__).parents[2]
INTERRUPTED = "interrupted; nothing was kept\n"

# A command line `test_program.py COMMAND OUT`. Each command prints "ready" where the test sends a signal.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from common.listed_command import Command
from common.program import call

def ready():
    print("ready", flush=True)
    sys.stdin.readline()

def importing(out: Path, /) -> None:
    import waits_as_it_is_imported

def importing_later(out: Path, /) -> None:
    from common.outputs import file, reserved
    with reserved(file(out), overwrite=False):
        import waits_as_it_is_imported
        raise AssertionError("reached")

def importing_as_it_writes(out: Path, /) -> None:
    from common.files import new_file
    with new_file(out, "it") as partial:
        partial.write_text("half")
        import waits_as_it_is_imported
        time.sleep(60)

def converting(out: Path, /) -> None:
    try:
        ready()
    except BaseException as error:
        raise ImportError("a library says so") from error

def finalising(out: Path, /) -> None:
    class Finalised:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)  # here it is raised, and swallowed
    ready()
    Finalised()
    while True:
        time.sleep(0.01)

def working(out: Path, /) -> None:
    from common.outputs import file, reserved
    with reserved(file(out), overwrite=False):
        ready()

names = ("importing", "importing_later", "importing_as_it_writes", "converting", "finalising", "working")
if __name__ == "__main__":
    sys.exit(call("tests", "", {name: Command(f"__main__:{name}", "") for name in names}, None))
"""
WAITS = """
import sys
try:
    print("ready", flush=True)
    sys.stdin.readline()
except BaseException as error:
    print("raised during the import:", repr(error), file=sys.stderr)
"""


def started(words: Sequence[str | Path], **options: object) -> "subprocess.Popen[str]":
    """A process that has said that it is ready, and waits for a line."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, *map(str, words)], text=True, **pipes, **options)  # type: ignore[call-overload]
    assert process.stdout.readline() == "ready\n", process.communicate()
    assert isinstance(process, subprocess.Popen)
    return process


def ended(process: "subprocess.Popen[str]", line: str = "") -> tuple[int, str]:
    """Its status and what it said on stderr, once it has been given the line."""
    return process.communicate(line, timeout=60)[1], process.returncode


@pytest.fixture
def program(tmp_path: Path) -> Path:
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "test_program.py").write_text(PROGRAM)
    (folder / "waits_as_it_is_imported.py").write_text(WAITS)
    return folder / "test_program.py"


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


SIGNALS = [
    (signal.SIGINT, 130, INTERRUPTED),
    (signal.SIGTERM, 143, "ended by SIGTERM; nothing was kept\n"),
    (signal.SIGHUP, 129, "ended by SIGHUP; nothing was kept\n"),
]


@pytest.mark.parametrize(("number", "status", "line"), SIGNALS)
@pytest.mark.parametrize("command", ["importing", "converting", "working"])
def test_a_signal_is_one_line_and_its_status(
    program: Path, tmp_path: Path, environment: dict[str, str], command: str, number: int, status: int, line: str
) -> None:
    process = started([program, command, tmp_path / "out"], env=environment)
    process.send_signal(number)
    assert ended(process) == (line, status)
    assert list(tmp_path.iterdir()) == [program.parent]


def test_a_signal_during_an_import_waits_if_there_is_something_to_clean_up(
    program: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    process = started([program, "importing_later", tmp_path / "out"], env=environment)
    assert (tmp_path / "out.claim").exists()
    process.send_signal(signal.SIGINT)
    assert ended(process, "go on\n") == (INTERRUPTED, 130)
    assert list(tmp_path.iterdir()) == [program.parent]


def test_a_signal_during_an_import_waits_until_a_half_written_file_can_be_removed(
    program: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    process = started([program, "importing_as_it_writes", tmp_path / "out"], env=environment)
    assert [path.read_text() for path in tmp_path.glob("*.partial")] == ["half"]
    process.send_signal(signal.SIGINT)
    assert ended(process, "go on\n") == (INTERRUPTED, 130)
    assert list(tmp_path.iterdir()) == [program.parent]


def test_a_signal_soon_after_another_does_not_interrupt_cleaning_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now, cleaned = 100.0, []
    monkeypatch.setattr(interruptions, "time", SimpleNamespace(monotonic=lambda: now))

    def command() -> None:
        nonlocal now
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            for now in (100.0, 100.9):
                signal.raise_signal(signal.SIGTERM)
                cleaned.append(now)
            now = 101.0
            signal.raise_signal(signal.SIGHUP)  # somebody who has waited for a second means it
            cleaned.append(now)

    with pytest.raises(Interruption), interruptible():
        command()
    assert cleaned == [100.0, 100.9]


def test_a_signal_during_an_import_undoes_what_it_can_and_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the end of the process is an error, so that the test goes on."""
    steps: list[object] = []

    def unmounted() -> None:
        steps.append("tried")
        raise OSError("the file system is gone")

    def ends(status: int) -> None:
        steps.append(status)
        raise SystemExit

    def command() -> None:
        with interruptions.undone(lambda: steps.append("undone")), interruptions.undone(unmounted):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(interruptions, "_in_import", lambda frame: True)
    monkeypatch.setattr(os, "write", lambda handle, line: steps.append((handle, line.decode())))
    monkeypatch.setattr(os, "_exit", ends)
    with pytest.raises(SystemExit), interruptible():
        command()
    assert steps[:4] == ["tried", "undone", (2, "ended by SIGTERM; nothing was kept\n"), 143]


def test_a_signal_that_python_swallows_comes_again(program: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    assert ended(started([program, "finalising", tmp_path], env=environment), "go on\n") == (INTERRUPTED, 130)


def test_a_signal_that_the_process_ignores_stays_ignored(
    program: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """As in `command &` of a script, or after `nohup`."""
    process = started(
        [program, "working", tmp_path / "out"],
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    process.send_signal(signal.SIGINT)
    assert ended(process, "go on\n") == ("", 0)


# Runs a command that waits where it imports the module.
WAITING_IMPORT = """
import sys
from importlib import import_module
import common.program

class Waits:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            print("ready", flush=True)
            sys.stdin.readline()

sys.meta_path.insert(0, Waits())
program = import_module(sys.argv[2] + ".__main__")
sys.exit(program.main(sys.argv[3:]))
"""
POCKET = str(ROOT / "traces/pocket/models/pocket")
IMPORTS = {
    "traces collect": ("torch", f"traces collect {POCKET} --continue-text --max-new-tokens 4 --out OUT.trace"),
    "traces info": ("pyarrow", "traces info NONE.trace"),
    "traces analyse": ("numpy", "traces analyse NONE.trace --out OUT"),
    "traces synthetic": ("numpy", "traces synthetic --model mixtral-8x7b --overlap 0.5 --out OUT.trace"),
    "sim run": ("pandas", "sim run NONE.trace --policy lru --out OUT"),
    "sim sweep": ("cyclopts", "sim sweep NONE.toml --out OUT"),
    "sim whatif": ("numpy", "sim whatif NONE.trace --policy lru --plot OUT.png"),
    "sim plot": ("pandas", "sim plot NONE --out OUT.png"),
    "sim paper": ("pandas", "sim paper --kick-the-tires --out OUT"),
    "validate calibrate": ("torch", f"validate calibrate {POCKET} --out OUT.toml"),
    "validate measure": ("torch", "validate measure --device cpu --out OUT"),
    "validate replay": ("transformers", "validate replay pocket --cache-experts 16 --policy lru --out OUT"),
    "validate compare": ("pandas", "validate compare NONE NONE --out OUT.parquet"),
}

ADVICE = {
    **dict.fromkeys(("sim sweep", "sim whatif", "sim paper"), "run the same command again to resume"),
    **dict.fromkeys(("traces collect", "traces synthetic"), "nothing new was kept"),
}


@pytest.mark.parametrize("command", slow_but([*IMPORTS], "traces collect", "sim run"))
def test_ctrl_c_while_a_command_imports_its_libraries_is_one_line(
    command: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    module, words = IMPORTS[command]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    words = words.replace("OUT", str(tmp_path / "out")).replace("NONE", str(tmp_path / "none"))
    process = started(
        ["-c", WAITING_IMPORT, module, *words.split()], env={**environment, "TMPDIR": str(temporary)}, cwd=tmp_path
    )
    process.send_signal(signal.SIGINT)
    line = f"interrupted; {ADVICE.get(command, 'nothing was kept')}\n"
    assert ended(process, "go on\n") == (line, 130)
    assert list(tmp_path.rglob("*")) == [temporary]
