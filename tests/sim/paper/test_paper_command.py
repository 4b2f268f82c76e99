"""The command as a user gives it: files, resuming, mistakes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from sim.__main__ import main
from tests.support.paper_command import files_of, tiny_trace, words
from tests.support.slow_cases import slow_but
from tests.support.sweep_runs import begun_again, events, run_bytes

ROOT = Path(__file__).parents[3]
SHOWN = ("10", "14b")


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has been carried out: its figures, its trace, its folder, what it wrote and what it printed."""

    shown: list[str]
    words: list[str]
    trace: Path
    folder: Path
    files: dict[str, bytes]
    printed: str


@pytest.fixture(scope="module", params=slow_but(["10 14b", "10 18"], "10 18"))
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("paper")
    trace, shown = tiny_trace(folder), request.param.split()
    command = words(trace, folder, *shown)
    with redirect_stdout(StringIO()) as printed:
        assert main(command) == 0
    return Done(shown, command, trace, folder, files_of(folder), printed.getvalue())


def test_a_second_call_computes_nothing_and_writes_the_same_bytes(
    done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    command, folder, first, said = done.words, done.folder, done.files, done.printed
    ran = events(folder / "store")
    assert {*first} == {f"figures/figure_{key}.{end}" for key in done.shown for end in ("png", "pdf", "csv", "parquet")}
    assert "SYNTHETIC" in said
    assert "Simulated, not measured." in said
    assert main(command) == 2  # not without a word
    assert f"figure_{done.shown[0]}.png exists already" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert events(folder / "store") == ran
    assert files_of(folder) == first


@pytest.mark.slow
def test_a_killed_command_continues_to_the_bytes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    trace = tiny_trace(tmp_path)
    assert main(words(trace, tmp_path / "whole", *SHOWN)) == 0
    command = words(trace, tmp_path / "killed", *SHOWN)
    store = tmp_path / "killed" / "store"
    killed = subprocess.Popen([sys.executable, "-m", "sim", *command], cwd=ROOT, stderr=subprocess.DEVNULL)
    while killed.poll() is None and len(run_bytes(store) if store.exists() else ()) < 3:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "killed" / "out").rglob("*.png"))  # nothing is drawn before all runs are there
    assert main(command) == 0
    assert begun_again(store) == []
    assert run_bytes(store) == run_bytes(tmp_path / "whole" / "store")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--figure", "99"], "--figure: unknown figure '99'; "),
        (["--figure", "11"], "--figure: figure 11 shows online serving, which is not simulated yet"),
        (["--figure", "1a"], "--figure: figure 1a is a diagram without data"),
        (["--figure"], "--figure: needs a value"),
        (["--quick"], "--quick: cannot be combined with --kick-the-tires"),
        (["--routing", "twins"], "--routing: must be either twins or traces"),
    ],
)
def test_a_mistake_gives_one_line(
    change: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(tiny_trace(tmp_path), tmp_path, "10"), *change]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


def test_a_trace_without_possible_runs_leaves_earlier_figures_alone(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / done.trace.name
    shutil.copytree(done.trace, trace)
    shutil.copytree(done.folder / "out", tmp_path / "out")
    before = files_of(tmp_path)
    assert before
    damaged = trace / "tokens.parquet"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert main([*words(trace, tmp_path, "14b"), "--overwrite", "--store", str(tmp_path / "other store")]) == 2
    assert "tiny.trace: none of its" in capsys.readouterr().err.splitlines()[-1]
    assert files_of(tmp_path) == before


def test_a_folder_of_another_command_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tiny_trace(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "meta.json").write_text("{}")
    assert main([*words(trace, tmp_path, "10"), "--overwrite"]) == 2
    said = "out cannot be written: it has a meta.json, so it is the output of another command\n"
    assert capsys.readouterr().err.endswith(said)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["meta.json"]


def test_a_path_that_is_no_trace_gives_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path / "no.trace", tmp_path, "10")) == 2
    assert "no.trace" in capsys.readouterr().err
