"""`validate measure` as a rehearsal on the processor."""

import json
import math

import pytest

from sim.hardware.machine_files import machine_named
from traces.published_models import published
from validate.__main__ import main

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "cpu"
    assert main(["measure", "--device", "cpu", "--quick", "--repeats", "1", "--out", str(folder)]) == 0
    return folder


def test_the_sheet_is_a_machine_whose_every_figure_has_a_source(measured):
    machine = machine_named(str(measured / "machine.toml"))
    assert machine.gpus == 1
    assert all(source.startswith(("measured: ", "assumption: ")) for source in machine.sources.values())
    assert machine.sources["gpu.memory_bytes"].startswith("assumption: ")  # of a rehearsal
    assert "256 × 256" in machine.sources["gpu.flops_per_s"]
    cost = machine.cost(published("mixtral-8x7b"))
    assert 0 < cost.expert_s(1) < math.inf  # more tokens may take less time where others use the processor
    assert 0 < cost.expert_s(512) < math.inf
    assert min(cost.effects.layer_host_s, cost.effects.expert_host_s) >= 0  # a busy machine may leave nothing for one


def test_measurements_are_kept_beside_the_sheets_values(measured):
    kept = json.loads((measured / "measurements.json").read_text())
    assert {each["operation"] for each in kept["operations"]} == {"expert", "dense", "head"}
    assert set(kept["copies"]) == {"pinned", "pageable"}
    assert len(kept["checked"]) == len(kept["operations"]) + len(kept["steps"])
    for row in kept["checked"]:
        assert row["error"] == pytest.approx(row["sheet_s"] / row["measured_s"] - 1)


def test_a_machine_without_the_device_says_so(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert main(["measure", "--out", str(tmp_path / "figures")]) == 2
    assert "no CUDA device was found" in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_copies_and_experts_are_timed_beside_each_other(tmp_path):
    folder = tmp_path / "figures"
    assert main(["measure", "--quick", "--repeats", "2", "--out", str(folder)]) == 0
    kept = json.loads((folder / "measurements.json").read_text())
    assert len(kept["contentions"]) == 2 * len(kept["models"])
