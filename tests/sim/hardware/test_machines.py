"""Which machine a text names, and the costs on it."""

from pathlib import Path

import pytest

from common.errors import UserError
from sim.hardware.costs import CostModel
from sim.hardware.machines import cost_of, description, machine_named
from sim.hardware.presets import PRESETS
from sim.hardware.profile import MeasuredCost, write_profile
from tests.support.builders import shape
from tests.support.profiles import flat_profile

MODEL = shape()


@pytest.mark.parametrize("name", PRESETS)
def test_a_name_is_a_preset(name: str) -> None:
    assert machine_named(name) is PRESETS[name]


def test_a_name_that_ends_in_toml_is_a_file(tmp_path: Path) -> None:
    profile = flat_profile(MODEL)
    write_profile(tmp_path / "a100.toml", profile)
    assert machine_named(str(tmp_path / "a100.toml")) == profile


@pytest.mark.parametrize(("text", "said"), [("a100.tom", "unknown machine 'a100.tom'"), ("a100.toml", "a100.toml: ")])
def test_what_is_neither_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        machine_named(text)


def test_a_preset_costs_a_roofline_and_a_profile_what_was_measured() -> None:
    profile = flat_profile(MODEL)
    roofline, measured = cost_of(MODEL, PRESETS["a100"]), cost_of(MODEL, profile)
    assert isinstance(roofline, CostModel)
    assert (roofline.model, roofline.hardware) == (MODEL, PRESETS["a100"])
    assert isinstance(measured, MeasuredCost)
    assert measured.profile == profile


def test_a_profile_refuses_a_model_that_it_was_not_measured_with() -> None:
    with pytest.raises(UserError, match="measured for hand-made with layers 2, hand-made has layers 3"):
        cost_of(shape(3), flat_profile(MODEL))


def test_a_heading_tells_a_preset_from_what_was_measured() -> None:
    assert description(PRESETS["rtx3090x6"]) == "rtx3090x6 (6 × RTX 3090)"
    assert description(flat_profile(MODEL, gpus=2)) == "a measured profile of flat (2 logical devices)"
