"""`finemoe sim plot`: what the picture says."""

from pathlib import Path

import pytest

from sim.__main__ import main
from sim.hardware.profile import write_profile
from tests.support.compare_helpers import passed_off
from tests.support.profiles import flat_profile
from tests.support.run_helpers import NO_REFERENCES, SHAPE, arguments


@pytest.fixture(scope="module")
def simulated(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two policies, without further settings."""
    out = tmp_path_factory.mktemp("simulated") / "results"
    assert main(arguments(trace, "--out", out, *NO_REFERENCES, policies=("lru", "deepspeed"))) == 0
    return out


@pytest.fixture(scope="module")
def measured(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, as if they had been measured."""
    return passed_off(simulated, tmp_path_factory.mktemp("measured") / "results")


def drawn(folder: Path, *words: str) -> str:
    """The texts of the picture, which matplotlib notes in comments."""
    picture = folder.parent / "a.svg"
    assert main(["plot", str(folder), "--out", str(picture), "--overwrite", *words]) == 0
    return picture.read_text()


def test_simulated_times_are_called_simulated(simulated: Path) -> None:
    picture = drawn(simulated)
    assert "simulated time per output token" in picture
    assert "Simulated: SYNTHETIC routing in the shape of small with the sizes of small" in picture
    assert "the cache holds 8 of 32 experts" in picture
    assert "easured" not in picture


def test_measured_times_are_called_measured(measured: Path) -> None:
    picture = drawn(measured)
    assert "measured time per output token" in picture
    assert "Measured: SYNTHETIC routing in the shape of small with the sizes of small" in picture
    assert "on bench, the cache holds 8 of 32 experts" in picture
    assert "imulated" not in picture


def test_a_measured_profile_does_not_make_simulated_times_measured(trace: Path, tmp_path: Path) -> None:
    write_profile(tmp_path / "a.toml", flat_profile(SHAPE))
    more = ("--out", tmp_path / "results", "--machine", tmp_path / "a.toml", *NO_REFERENCES)
    words = arguments(trace, *more, policies=("lru",))
    assert main(words) == 0
    picture = drawn(tmp_path / "results")
    assert "simulated time per output token" in picture
    assert "Simulated: " in picture
    assert "on a measured profile of flat" in picture


def test_the_time_split_is_drawn_for_decode_and_prefill(simulated: Path, measured: Path) -> None:
    picture = drawn(simulated, "--stalls")
    assert "simulated time of a mean decode iteration [ms]" in picture
    assert "simulated time of a mean prefill [ms]" in picture
    assert "Simulated: SYNTHETIC routing in the shape of small with the sizes of small" in picture
    assert "miss (waiting)" in picture
    assert "prefetch (waiting)" in picture
    other = drawn(measured, "--stalls")
    assert "measured time of a mean decode iteration [ms]" in other
    assert "imulated" not in other


@pytest.mark.parametrize("name", ["a.jpg", "a"])
def test_a_picture_has_a_known_ending(simulated: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["plot", str(simulated), "--out", name]) == 2
    assert capsys.readouterr().err == f"error: {name}: the name must end in .png, .svg or .pdf\n"


def test_a_picture_that_cannot_be_written_is_one_line(simulated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = simulated / "meta.json" / "a.png"
    assert main(["plot", str(simulated), "--out", str(picture)]) == 2
    assert capsys.readouterr().err == f"error: {picture} cannot be written: Not a directory\n"
