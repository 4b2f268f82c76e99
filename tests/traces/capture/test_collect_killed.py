"""A collection that is killed repeatedly, at any moment, ends in the same bytes as an uninterrupted one."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.collect_helpers import BATCH, command, subprocess_environment
from tests.support.killed_runs import PHASES, interpreter, kill_in_a_row
from tests.support.tiny_models import save_tiny
from tests.support.trace_helpers import content, small_trace
from traces.__main__ import main
from traces.format.checks import check
from traces.pocket import DEMO_PROMPTS

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at processes through Linux's /proc")

TWENTY = {"loading": 3, "generating": 6, "writing": 5}, {"loading": 1, "merging": 4}  # and one at the very end
SIX = {"loading": 1, "generating": 1, "writing": 1}, {"loading": 1, "merging": 1}


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
import json
import sys
from pathlib import Path
from common.errors import UserError
from tests.support.killed_runs import Fork, kill_in_a_row
from tests.support.trace_helpers import random_request, small_meta, write_trace

whole, out, parts = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
latest_s, kills, least = json.loads(sys.argv[4])
meta = small_meta()
requests = [[random_request(request, meta) for request in (part, 400 - part)] for part in range(parts)]


def write(path):
    return lambda: write_trace(path, meta, requests)


assert Fork(write(whole)).wait() == 0
print(json.dumps(kill_in_a_row(lambda: Fork(write(out)), out, latest_s, kills, least)))
there = out.exists()
try:
    write(out)()
except UserError as error:  # the last kill came after the renaming
    assert there and "exists already" in str(error)
"""


@pytest.mark.parametrize(
    ("kills", "least", "parts"),
    [
        pytest.param(SIX, 1, 20, id="six"),
        pytest.param(TWENTY, 2, 160, id="twenty", marks=pytest.mark.long),
    ],
)
def test_a_writer_killed_many_times_in_a_row_gives_the_same_bytes(
    tmp_path: Path, kills: Sequence[dict[str, int]], least: int, parts: int
) -> None:
    """The collection's writing without its model, which takes seconds to load, in forks of one process."""
    whole, out = tmp_path / "whole.trace", tmp_path / "killed.trace"
    latest_s = {"loading": 0.03, "generating": 0.03, "writing": 0.01, "merging": 0.03, "installing": 0.01}
    plan = json.dumps((latest_s, kills, least))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    line = [sys.executable, "-c", WRITER, str(whole), str(out), str(parts), plan]
    done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert_equal_and_nothing_left(out, whole)
    assert_everywhere(Counter(json.loads(done.stdout)), least)


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
    hit = kill_in_a_row(lambda: interpreter(again, environment), out, latest_s, TWENTY, 2)
    finish(again, out, environment)
    assert_equal_and_nothing_left(out, whole)
    assert_everywhere(hit, 2)
