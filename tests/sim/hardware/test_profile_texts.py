"""What a machine's text may set of a measured profile."""

import pytest

from common.errors import UserError
from sim.hardware.effects import Effects
from sim.hardware.machine_files import machine_named
from sim.hardware.parts import Contention
from sim.hardware.profile import write_profile
from tests.support.builders import shape
from tests.support.profiles import flat_profile

MODEL = shape(2, 4)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "here.toml"
    write_profile(path, flat_profile(MODEL, contention=Contention(compute_slowdown=1.5, copy_slowdown=1.25)))
    return path


def test_measured_contention_can_be_switched_off(file):
    whole = machine_named(str(file))
    off = machine_named(f"{file},contention.compute_slowdown=1,contention.copy_slowdown=1")
    assert (whole.contention.compute_slowdown, whole.origins["contention"]) == (1.5, ("measured",))
    assert off.cost(off.model).effects == Effects()
    assert off.origins["contention"] == ()
    assert off.digest != whole.digest


def test_an_effect_that_is_set_is_assumed_and_keeps_the_figures_that_it_does_not_name(file):
    changed = machine_named(f"{file},contention.copy_slowdown=2,host.memory_bytes_per_s=96e9,demand_loading=serial")
    assert changed.contention == Contention(compute_slowdown=1.5, copy_slowdown=2.0)
    assert (changed.demand_loading, changed.host.memory_bytes_per_s) == ("serial", 96e9)
    assert changed.origins["contention"] == changed.origins["host memory"] == ("assumed",)
    assert changed.origins["copies"] == ("measured",)


def test_a_framework_can_be_named(file):
    assert machine_named(f"{file},framework=transformers").cost(MODEL).effects.layer_host_s > 0


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("contention.copy_slowdown=0.5", "contention.copy_slowdown"),
        ("demand_loading=both", "demand_loading: must be parallel or serial, not 'both'"),
        ("gpus=2", "gpus: is not a setting"),
        ("framework=torch", "framework: unknown framework 'torch'"),
    ],
)
def test_a_mistake_names_machine_key_and_value(file, setting, words):
    with pytest.raises(UserError) as raised:
        machine_named(f"{file},{setting}")
    assert words in str(raised.value)
    assert str(file) in str(raised.value)
