"""A collection that is killed repeatedly, at any moment, ends in the same bytes as an uninterrupted one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.collect_helpers import BATCH, command, subprocess_environment
from tests.support.tiny_models import save_tiny
from tests.support.trace_helpers import content, small_trace
from traces.__main__ import main
from traces.format.checks import check
from traces.pocket import DEMO_PROMPTS

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at processes through Linux's /proc")

TWENTY = {"loading": 3, "generating": 6, "writing": 5}, {"loading": 1, "merging": 4}  # and one at the very end
SIX = {"loading": 1, "generating": 1, "writing": 1}, {"loading": 1, "merging": 1}
MORE = 50  # attempts at a phase that was not hit often enough


@dataclass(frozen=True)
class Run:
    """A process that makes the trace `out`."""

    process: subprocess.Popen[bytes]
    out: Path
    began_s: float

    @classmethod
    def start(cls, arguments: Sequence[str], out: Path, environment: dict[str, str]) -> "Run":
        command = [sys.executable, *arguments]
        began_s = time.time()
        quiet = subprocess.DEVNULL
        return cls(subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet), out, began_s)

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
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        phase = self.phase()
        self.process.kill()
        self.process.wait()
        return phase


PHASES = ("loading", "generating", "writing", "merging", "installing", "over")


def kill_in_a_row(
    arguments: Sequence[str],
    out: Path,
    environment: dict[str, str],
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
        hit[Run.start(arguments, out, environment).kill(phase, draw.uniform(0, latest_s))] += 1

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


def finish(arguments: Sequence[str], out: Path, environment: dict[str, str]) -> None:
    """Let it run to its end; where the last kill came after the renaming, it says that the trace is there."""
    there = out.exists()
    ran = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0 or (there and "exists already" in ran.stderr), ran.stderr


def assert_equal_and_nothing_left(out: Path, whole: Path) -> None:
    assert content(out) == content(whole)
    assert check(out) == []
    assert [path.name for path in out.parent.iterdir() if ".partial" in path.name] == []


def assert_everywhere(hit: Counter[str], least: int) -> None:
    assert min(hit[phase] for phase in PHASES[:4]) >= least, hit
    assert hit["installing"] + hit["over"] >= 1, hit


WRITER = """
import sys
from pathlib import Path
from tests.support.trace_helpers import random_request, small_meta, write_trace
from common.errors import UserError

meta = small_meta()
parts = [[random_request(request, meta) for request in (part, 400 - part)] for part in range(int(sys.argv[2]))]
try:
    write_trace(Path(sys.argv[1]), meta, parts)
except UserError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(
    ("kills", "least", "parts"),
    [
        pytest.param(SIX, 1, 50, id="six"),
        pytest.param(TWENTY, 2, 160, id="twenty", marks=pytest.mark.long),
    ],
)
def test_a_writer_killed_many_times_in_a_row_gives_the_same_bytes(
    tmp_path: Path, kills: Sequence[dict[str, int]], least: int, parts: int
) -> None:
    """The collection's writing without its model, which takes seconds to load."""
    paths = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": paths}
    whole, out = tmp_path / "whole.trace", tmp_path / "killed.trace"
    finish(["-c", WRITER, str(whole), str(parts)], whole, environment)
    again = ["-c", WRITER, str(out), str(parts)]
    latest_s = {"loading": 0.3, "generating": 0.03, "writing": 0.01, "merging": 0.03, "installing": 0.01}
    hit = kill_in_a_row(again, out, environment, latest_s, kills, least)
    finish(again, out, environment)
    assert_equal_and_nothing_left(out, whole)
    assert_everywhere(hit, least)


def test_what_a_kill_after_the_renaming_left_is_cleared_away_by_the_same_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_trace(tmp_path / "a.trace")
    before, partial = content(out), tmp_path / "a.trace.partial"
    (partial / "parts" / "000000").mkdir(parents=True)
    for name in ("plan.json", "lock", "merged"):
        (partial / name).write_text("{}")
    assert main(command("pocket", DEMO_PROMPTS, out)) == 2
    assert "a.trace exists already; choose another name, or replace it with --overwrite" in capsys.readouterr().err
    assert content(out) == before
    assert not partial.exists()


@pytest.mark.long
@pytest.mark.parametrize("mode", [("--temperature", "1"), ("--continue-text", "--prompt-tokens", "12")], ids=" ".join)
def test_a_collection_killed_twenty_times_in_a_row_gives_the_same_bytes(tmp_path: Path, mode: tuple[str, ...]) -> None:
    draw = random.Random(11)
    save_tiny(tmp_path / "qwen2_moe", "qwen2_moe")
    prompts = tmp_path / "many.txt"
    lines = (" ".join(f"w{draw.randint(4, 198)}" for _ in range(draw.randint(2, 40))) for _ in range(60 * BATCH))
    prompts.write_text("\n".join(lines), encoding="utf-8")
    whole, out = tmp_path / "whole.trace", tmp_path / "killed.trace"
    options = ("--max-new-tokens", "24", "--lookahead", "1", *mode)
    environment = subprocess_environment()
    uninterrupted, again = (
        ["-m", "traces", *command(tmp_path / "qwen2_moe", prompts, path, *options)] for path in (whole, out)
    )
    finish(uninterrupted, whole, environment)
    latest_s = {"loading": 4.0, "generating": 0.5, "writing": 0.01, "merging": 0.05, "installing": 0.02}
    hit = kill_in_a_row(again, out, environment, latest_s, TWENTY, 2)
    finish(again, out, environment)
    assert_equal_and_nothing_left(out, whole)
    assert_everywhere(hit, 2)
