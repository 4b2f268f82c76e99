"""`finemoe sim plot SWEEP`."""

from pathlib import Path

import pytest

from sim.__main__ import main
from sim.sweeps.sweep import Sweep
from tests.support.run_helpers import arguments
from tests.support.sweep_helpers import simulated_sweep


@pytest.fixture(scope="module")
def sweep(trace: Path) -> Sweep:
    return simulated_sweep(trace, policies=("lru", "lfu"), seeds=(0,))


@pytest.fixture
def folder(sweep: Sweep, tmp_path: Path) -> Path:
    sweep.write(tmp_path / "sweep")
    return tmp_path / "sweep"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "simulated TPOT, mean [ms]"),
        (("--metric", "hit_rate"), "simulated hit rate [%]"),
        (("--over", "policy"), "cache.share=0.25"),
        (("--pareto",), "Pareto front"),
        (("--stalls",), "miss (waiting)"),
    ],
)
def test_a_sweep_is_drawn(folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], text: str) -> None:
    picture = folder.with_name("a.svg")
    assert main(["plot", str(folder), "--out", str(picture), "--overwrite", *words]) == 0
    assert capsys.readouterr().out == f"{picture}\n"
    assert text in picture.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--metric", "hitrate"), "--metric: the sweep has no metric 'hitrate'; did you mean 'hit_rate'?"),
        (("--metric", "policy"), "--metric: the sweep has no metric 'policy'; "),
        (("--over", "cache.shares"), "--over: the sweep has no axis 'cache.shares'; did you mean 'cache.share'?"),
        (("--pareto", "--over", "seed"), "--over: cannot be combined with --pareto"),
        (("--stalls", "--pareto"), "--pareto: cannot be combined with --stalls"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    picture = folder.with_name("a.svg")
    assert main(["plot", str(folder), "--out", str(picture), *words]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {said}")
    assert printed.count("\n") == 1
    assert not picture.exists()


def test_results_of_one_scenario_have_no_axes(trace: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(trace, "--out", out, policies=("lru",))) == 0
    capsys.readouterr()
    for words in (["--metric", "hit_rate"], ["--over", "seed"], ["--pareto"]):
        assert main(["plot", str(out), "--out", "a.svg", *words]) == 2
        assert capsys.readouterr().err == f"error: {words[0]}: needs the folder of a sweep; {out} is not one\n"


def test_a_damaged_sweep_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "meta.json").unlink()
    assert main(["plot", str(folder), "--out", "a.svg"]) == 2
    assert "is missing; " in capsys.readouterr().err
