"""The devices of a real run, as a machine."""

import pytest

from common.errors import UserError
from sim.hardware.machine import Machine
from tests.support.builders import shape
from validate.testbed import Devices


def test_devices_are_a_machine_whose_memory_and_figures_are_not_known() -> None:
    machine: Machine = Devices("cpu with 1 thread", 2)
    assert machine.describe() == "cpu with 1 thread (2 logical devices)"
    assert (machine.gpus, machine.links, machine.demand_loading) == (2, 2, "parallel")
    assert (machine.gpu_memory_bytes, machine.digest) == (None, None)


def test_times_on_devices_are_measured_so_they_cannot_be_computed() -> None:
    with pytest.raises(UserError) as error:
        Devices("cpu", 1).cost(shape())
    assert str(error.value) == (
        "cpu (1 logical device): times are measured here, so hand-made cannot be simulated on it"
    )
