"""Processes that make a trace and are killed in a chosen phase; imported where only the writer is."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MORE = 50  # attempts at a phase that was not hit often enough
LOADING_S = 0.03  # of a fork, which has everything loaded


class Process(Protocol):
    """What is needed of `subprocess.Popen`."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...


class Fork:
    """A child of this process that does some work; it costs a hundredth of a new interpreter."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                time.sleep(LOADING_S)
                work()
                status = 0
            finally:
                os._exit(status)

    def poll(self) -> int | None:
        return self._reaped(os.WNOHANG)

    def wait(self) -> int:
        status = self._reaped(0)
        assert status is not None
        return status

    def _reaped(self, how: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def interpreter(arguments: Sequence[str], environment: dict[str, str]) -> Process:
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, *arguments], env=environment, stdout=quiet, stderr=quiet)


@dataclass(frozen=True)
class Run:
    """A process that makes the trace `out`."""

    process: Process
    out: Path
    began_s: float

    @classmethod
    def start(cls, start: Callable[[], Process], out: Path) -> "Run":
        began_s = time.time()
        return cls(start(), out, began_s)

    def phase(self) -> str:
        """What the process is doing, as its files tell; what an earlier one has left behind does not count."""
        partial = self.out.with_name(self.out.name + ".partial")
        if not self._holds(partial / "lock"):
            return "over" if self.out.exists() else "loading"
        if self._made(partial / "merged"):
            return "installing"
        if self._made(partial / "finished"):
            return "merging"
        return "writing" if any(map(self._made, partial.glob("parts/*.tmp"))) else "generating"

    def _holds(self, lock: Path) -> bool:
        try:
            handles = list(Path(f"/proc/{self.process.pid}/fd").iterdir())
            return any(str(handle.readlink()) == str(lock) for handle in handles)
        except OSError:  # closed, or dead, in between
            return False

    def _made(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime > self.began_s
        except OSError:
            return False

    def kill(self, wanted: str, late_s: float) -> str:
        """Kill it so long after it is first seen in the `wanted` phase or beyond; the phase in which it died.

        It is frozen first, so that one can see where it is.
        """
        due_s = None
        while due_s is None or time.monotonic() < due_s:
            if self.process.poll() is not None:
                assert self.process.returncode == 0
                return "over"
            if due_s is None and PHASES.index(self.phase()) >= PHASES.index(wanted):
                due_s = time.monotonic() + late_s
            time.sleep(0.0003)
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        phase = self.phase()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return phase


PHASES = ("loading", "generating", "writing", "merging", "installing", "over")


def kill_in_a_row(
    start: Callable[[], Process],
    out: Path,
    latest_s: dict[str, float],
    kills: Sequence[dict[str, int]],
    least: int,
) -> Counter[str]:
    """Run and kill, up to `latest_s` after the start of each phase; how often each phase was hit.

    `kills` says how often in each phase, early ones and then late ones. On a machine that is busy, or fast, the process
    may die in another phase than was wanted: it is killed more often then, until each phase was hit `least` times.
    """
    draw = random.Random(5)
    hit: Counter[str] = Counter()

    def kill(phase: str, latest_s: float) -> None:
        if out.exists():  # it was over before the kill: begin anew
            for path in (out, out.with_name(out.name + ".partial")):
                shutil.rmtree(path, ignore_errors=True)
        hit[Run.start(start, out).kill(phase, draw.uniform(0, latest_s))] += 1

    for wanted in kills:
        phases = [phase for phase, times in wanted.items() for _ in range(times)]
        draw.shuffle(phases)
        for phase in phases:
            kill(phase, latest_s[phase])
        for phase in wanted:
            for _ in range(MORE):
                if hit[phase] < least:
                    kill(phase, 0)
    kill("installing", latest_s["installing"])  # after which there may be nothing left to kill
    return hit
