"""Every command that writes refuses a bad output before it reads or computes anything."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from common.outputs import file, reserved
from tests.support.compare_helpers import passed_off
from tests.support.run_helpers import SHAPE
from tests.support.slow_cases import slow_but
from tests.support.trace_helpers import small_trace

ROOT = Path(__file__).parents[1]
MODEL = "--model gpt-oss-20b"
COMMANDS = {  # OUT stands for the output, NONE for an input that is not there
    "run": "sim run NONE.trace --out OUT",
    "run --save-scenario": "sim run NONE.trace --save-scenario OUT.toml",
    "whatif": "sim whatif NONE.trace --out OUT",
    "whatif --plot": "sim whatif NONE.trace --plot OUT.png",
    "predict": "sim predict NONE.trace --out OUT.parquet",
    "predict --plot": "sim predict NONE.trace --plot OUT.png",
    "plot": "sim plot NONE --out OUT.png",
    "analyse": "traces analyse NONE.trace --out OUT",
    "arrivals": "traces arrivals NONE.csv --out OUT.parquet",
    "arrivals --plot": "traces arrivals NONE.csv --plot OUT.png",
    "npz": f"traces convert npz NONE.npz {MODEL} --out OUT.trace",
    "jsonl": f"traces convert jsonl NONE.jsonl {MODEL} --out OUT.trace",
    "policylang": f"traces convert policylang NONE.jsonl {MODEL} --out OUT.trace",
    "store": f"traces convert store NONE.npz {MODEL} --out OUT.trace",
    "counts": f"traces convert counts NONE.npy {MODEL} --out OUT.parquet",
    "fit": "traces fit NONE.trace --workload NONE.csv --out OUT.trace",
    "synthetic": "traces synthetic --like NONE.trace --out OUT.trace",
    "collect": "traces collect NONE --prompts NONE --max-new-tokens 1 --out OUT.trace",
    "calibrate": "validate calibrate NONE --out OUT.toml",
    "measure": "validate measure --out OUT",
    "route-trace": "traces convert route-trace NONE.csv --out OUT.trace",
    "compare": "validate compare NONE NONE --out OUT.parquet",
    "compare --plot": "validate compare NONE NONE --plot OUT.png",
    "replay": "validate replay NONE --prompts NONE --out OUT",
    "replay --record": "validate replay NONE --prompts NONE --record OUT.trace",
}
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """The one line with which a command refuses an output."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, out: Path, *more: str) -> str:
        program, *words = [*COMMANDS[command].replace("OUT", str(out)).split(), *more]
        assert import_module(f"{program}.__main__").main(words) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
        return captured.err

    return run


def path_of(command: str, out: Path) -> Path:
    return Path(next(word for word in COMMANDS[command].split() if "OUT" in word).replace("OUT", str(out)))


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_cannot_be_written_is_refused_first(command: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("mine")
    for out, problem in (
        (tmp_path / "file" / "below", "Not a directory"),
        (tmp_path / "new" / ("a" * 300), "File name too long"),
        (Path("/proc/none"), "No such file or directory"),
    ):
        assert refused(command, out) == f"error: {path_of(command, out)} cannot be written: {problem}\n"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_another_command_writes_is_refused_first(command: str, tmp_path: Path, refused: Refused) -> None:
    path = path_of(command, tmp_path / "out")
    with reserved(file(path), overwrite=False):
        assert refused(command, tmp_path / "out").endswith(" is writing there\n")
    path.mkdir()
    (path / "mine").touch()
    said = f"error: {path} exists already; choose another name, or replace it with --overwrite\n"
    assert refused(command, tmp_path / "out") == said
    assert refused(command, tmp_path / "out", "--overwrite").startswith(f"error: {path} cannot be replaced: ")
    assert list(tmp_path.rglob("*")) == [path, path / "mine"]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_name_is_refused(command: str, refused: Refused) -> None:
    option = COMMANDS[command].split()[-2]
    assert refused(command, Path("out"), option, "") == f"error: {option}: needs a value\n"


def test_every_command_that_writes_says_in_the_same_words_that_it_can_overwrite() -> None:
    reference = (ROOT / "docs/commands.md").read_text()  # which is what `--help` says
    helped = dict(re.findall(r"^#+ finemoe (.+?)\n\n```\n(.*?)\n```", reference, re.MULTILINE | re.DOTALL))
    of_one_kind = "--overwrite Replace existing outputs; other files and folders stay as they are."
    of_all_kinds = "--overwrite Replace existing files that have the name of an output, whoever wrote them."
    more = {"sim sweep": of_one_kind} | dict.fromkeys(("sim paper", "sim comparison", "sim anchors"), of_all_kinds)
    for words, said in (dict.fromkeys(COMMANDS.values(), of_one_kind) | more).items():
        assert " ".join(helped[words.partition(" NONE")[0].partition(" --")[0]].split()).count(said) == 1, words


def test_of_two_predictions_into_one_file_one_is_there_and_one_is_refused(tmp_path: Path) -> None:
    trace = small_trace(tmp_path / "small.trace", 10, shape=SHAPE)
    out = tmp_path / "rows.parquet"
    words = [sys.executable, "-m", "sim", "predict", str(trace), "--policy", "finemoe", "--json", "--out", str(out)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [(*each.communicate(timeout=120), each.returncode) for each in both]
    (rows, _, one), (nothing, said, other) = sorted(ended, key=lambda each: each[2])
    assert (one, other, nothing) == (0, 2, "")
    assert json.loads(rows)
    assert "is writing there" in said or "exists already" in said
    assert {each.name for each in tmp_path.iterdir()} == {"small.trace", "rows.parquet"}


# Runs a command on a disk on which no file can become large: EFBIG, as ENOSPC. Nothing limits a pipe.
FULL_DISK = """
import resource, sys
from importlib import import_module
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
sys.exit(import_module(sys.argv[1] + ".__main__").main(sys.argv[2:]))
"""


def on_a_full_disk(command: str) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-c", FULL_DISK, *command.split()]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)


ON_A_FULL_DISK = [
    "sim run TRACE --policy lru --json --out OUT",
    "sim predict TRACE --policy finemoe --json --out OUT.parquet",
    "sim predict TRACE --policy finemoe --json --plot OUT.png",
    "traces analyse TRACE --json --out OUT",
    "traces arrivals poisson --requests 200 --rate 1 --prompt-tokens 8 --output-tokens 8 --json --out OUT.parquet",
    "traces arrivals poisson --requests 9 --rate 1 --prompt-tokens 8 --output-tokens 8 --json --plot OUT.png",
    "validate compare SIMULATED MEASURED --json --out OUT.parquet",
]


@pytest.mark.parametrize("command", slow_but(ON_A_FULL_DISK, ON_A_FULL_DISK[0]))
def test_on_a_full_disk_the_figures_are_still_printed(command: str, tmp_path: Path) -> None:
    trace = small_trace(tmp_path / "small.trace", 10, shape=SHAPE)
    if "SIMULATED" in command:
        assert (
            import_module("sim.__main__").main([*f"run {trace} --policy lru --out {tmp_path}/SIMULATED".split()]) == 0
        )
        passed_off(tmp_path / "SIMULATED", tmp_path / "MEASURED")
    before = set(tmp_path.iterdir())
    for name in ("OUT", "SIMULATED", "MEASURED"):
        command = command.replace(name, f"{tmp_path}/{name}")
    ran = on_a_full_disk(command.replace("TRACE", str(trace)))
    assert ran.returncode == 2
    assert json.loads(ran.stdout)
    assert f"error: {tmp_path}/OUT" in ran.stderr
    assert ran.stderr.splitlines()[-1].endswith(" could not be written: File too large")
    assert set(tmp_path.iterdir()) == before
