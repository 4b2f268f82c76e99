"""Where the parts of a cost are from, for each kind of machine."""

from dataclasses import replace
from pathlib import Path

import pytest

from sim.hardware.machine_files import machine_named
from sim.hardware.origins import origin_of, origins_text
from sim.hardware.parts import Contention, Framework, Host
from sim.hardware.profile import write_profile
from tests.support.builders import machine, shape
from tests.support.profiles import flat_profile
from validate.testbed import Devices

SHEET = """
extends = "SHEET"
gpus = 2
copies = "pageable"
[gpu]
flops_per_s = { value = 1e14, source = "data sheet" }
memory_bytes_per_s = { value = 1e12, source = "measured: a copy on the device" }
overhead_s = 0
[host_link]
bytes_per_s = { value = 2e10, source = "measured" }
latency_s = { value = 1e-5, source = "measured" }
[pageable_link]
bytes_per_s = { value = 1e10, source = "measured by somebody" }
latency_s = { value = 1e-5, source = "assumption: as of others" }
[efficiency]
expert_flops = { value = [[1, 0.5]], source = "measured" }
[contention]
copy_slowdown = 1.5
""".replace("SHEET", machine_named("rtx3090").name)


@pytest.mark.parametrize(
    ("source", "origin"),
    [
        ("measured: by copying", "measured"),
        ("assumption: a few cores", "assumed"),
        ("not stated", "assumed"),
        ("paper §6.1", "stated"),
        ("data sheet, which was not measured", "stated"),
    ],
)
def test_the_first_word_of_a_source_says_what_it_is(source: str, origin: str) -> None:
    assert origin_of(source) == origin


def test_a_part_of_a_data_sheet_is_what_its_figures_are(tmp_path: Path) -> None:
    """The link that is not used says nothing, nor does a figure of no effect; a bare number is an assumption."""
    (tmp_path / "a.toml").write_text(SHEET)
    origins = machine_named(str(tmp_path / "a.toml")).origins
    assert origins["computing"] == ("measured", "stated")
    assert origins["efficiency"] == ("measured",)
    assert origins["copies"] == ("measured", "assumed")
    assert origins["contention"] == ("assumed",)
    for off in ("starting operations", "host memory", "CPU time"):
        assert origins[off] == ()


def test_figures_without_sources_are_assumed_and_one_gpu_exchanges_nothing() -> None:
    assert machine(2).origins["exchange"] == ("assumed",)
    assert "exchange" not in machine(1).origins


def test_a_profile_was_measured_and_says_what_was_not() -> None:
    origins = flat_profile(shape(), gpus=2).origins
    assert {part for part, found in origins.items() if found == ("measured",)} == {
        *("computing", "copies", "driving", "searches")
    }
    assert {part for part, found in origins.items() if not found} == {"host memory", "contention"}
    everything = {"host": Host(memory_bytes_per_s=1e9), "framework": Framework(layer_s=1.0)}
    more = flat_profile(shape(), **everything, contention=Contention(copy_slowdown=2.0)).origins
    assert set(more.values()) == {("measured",)}
    assert more.keys() - origins.keys() == {"CPU time"}
    assert "host memory" not in flat_profile(shape(), gpus=1).origins


def test_scaled_parts_are_assumed(tmp_path: Path) -> None:
    write_profile(tmp_path / "a.toml", replace(flat_profile(shape())))
    before = machine_named(str(tmp_path / "a.toml")).origins
    scaled = machine_named(f"{tmp_path / 'a.toml'},scale.link=2,scale.host=2").origins
    assert {part for part in before if before[part] != scaled[part]} == {"copies"}
    assert scaled["copies"] == ("assumed",)


def test_devices_are_measured_as_a_whole() -> None:
    assert Devices("cpu", 1).origins == {"everything": ("measured",)}


def test_the_text_groups_parts_and_says_last_what_is_not_modelled() -> None:
    text = origins_text(
        {
            "host memory": (),
            "searches": ("assumed",),
            "copies": ("stated", "assumed"),
            "computing": ("measured",),
            "exchange": ("stated", "assumed"),
        }
    )
    assert text == (
        "measured: computing; from data sheets and assumed: copies, exchange; assumed: searches; "
        "not modelled: host memory"
    )
