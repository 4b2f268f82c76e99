"""`finemoe sim plot`: what the picture says."""

from pathlib import Path

import pytest

from sim.__main__ import main
from sim.hardware.profile import write_profile
from tests.support.compare_helpers import passed_off
from tests.support.profiles import flat_profile
from tests.support.run_helpers import NO_REFERENCES, SHAPE, arguments


def drawn(folder: Path, *words: str) -> str:
    """The texts of the picture, which matplotlib notes in comments."""
    picture = folder.parent / "a.svg"
    assert main(["plot", str(folder), "--out", str(picture), "--overwrite", *words]) == 0
    return picture.read_text()


def test_simulated_times_are_called_simulated(trace: Path, out: Path) -> None:
    assert main(arguments(trace, "--out", out, *NO_REFERENCES, policies=("lru",))) == 0
    picture = drawn(out)
    assert "simulated time per output token" in picture
    assert "Simulated: SYNTHETIC routing in the shape of small with the sizes of small" in picture
    assert "the cache holds 8 of 32 experts" in picture
    assert "easured" not in picture


def test_measured_times_are_called_measured(trace: Path, out: Path) -> None:
    assert main(arguments(trace, "--out", out, *NO_REFERENCES, policies=("lru",))) == 0
    picture = drawn(passed_off(out, out.with_name("measured")))
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


def test_the_time_split_is_drawn_for_decode_and_prefill(trace: Path, out: Path) -> None:
    assert main(arguments(trace, "--out", out, policies=("lru", "deepspeed"))) == 0
    picture = drawn(out, "--stalls")
    assert "simulated time of a mean decode iteration [ms]" in picture
    assert "simulated time of a mean prefill [ms]" in picture
    assert "Simulated: SYNTHETIC routing in the shape of small with the sizes of small" in picture
    assert "miss (waiting)" in picture
    assert "prefetch (waiting)" in picture
    measured = drawn(passed_off(out, out.with_name("measured")), "--stalls")
    assert "measured time of a mean decode iteration [ms]" in measured
    assert "imulated" not in measured


@pytest.mark.parametrize("name", ["a.jpg", "a"])
def test_a_picture_has_a_known_ending(trace: Path, out: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(arguments(trace, "--out", out, *NO_REFERENCES, policies=("lru",))) == 0
    assert main(["plot", str(out), "--out", name]) == 2
    assert capsys.readouterr().err == f"error: {name}: the name must end in .png, .svg or .pdf\n"


def test_a_picture_that_cannot_be_written_is_one_line(
    trace: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(trace, "--out", out, *NO_REFERENCES, policies=("lru",))) == 0
    picture = out / "meta.json" / "a.png"
    assert main(["plot", str(out), "--out", str(picture)]) == 2
    assert capsys.readouterr().err == f"error: {picture} cannot be written: Not a directory\n"
