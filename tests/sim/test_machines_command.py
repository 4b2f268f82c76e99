"""`finemoe sim machines`: what there is to simulate, and where every figure of it is from."""

import json
from pathlib import Path

import pytest

from common.folding import WIDTH
from sim.__main__ import main
from sim.hardware.machine_files import machine_named
from sim.hardware.parts import Contention
from sim.hardware.presets import framework_names, preset_names
from sim.hardware.profile import write_profile
from tests.support.builders import shape
from tests.support.profiles import flat_profile

TEXT = "rtx3090x6,framework=transformers,host.memory_bytes_per_s=96e9,host_link.efficiency=[[65536,0.4],[16e6,1]]"


def said(capsys: pytest.CaptureFixture[str], *names: str) -> str:
    assert main(["machines", *names]) == 0
    return capsys.readouterr().out


def test_the_list_has_every_preset_and_framework(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys).splitlines()
    assert [line.split()[0] for line in lines[3:] if line and line.split()[0] in preset_names()] == preset_names()
    assert all(name in " ".join(lines) for name in framework_names())
    assert max(map(len, lines)) <= WIDTH


def test_every_figure_has_its_unit_kind_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, TEXT)
    assert max(map(len, text.splitlines()[1:])) <= WIDTH
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "gpus 6 stated paper §6.1" in rows
    assert "host.memory_bytes_per_s 96 GB/s assumed not stated" in rows
    assert "gpu.memory_bytes_per_s 936 GB/s stated data sheet" in rows
    assert "gpu.overhead_s 10 µs assumed assumption" in rows
    assert "search.flops_per_s 200 GFLOP/s assumed assumption: a few cores of the host" in rows
    assert "host_link.efficiency 40% at 65.54 kB, 100% at 16 MB" in rows
    assert any(row.startswith("framework.layer_s 1 ms assumed assumption: Transformers") for row in rows)
    assert any(row.startswith("host_link.bytes_per_s 26.5 GB/s measured measured by others") for row in rows)
    assert rows[-1] == "Off: efficiency, contention."


@pytest.mark.parametrize("name", [TEXT, "a100-80gb,scale.link=2", "paper-rtx3090"])
def test_json_has_the_figures_as_in_a_file(capsys: pytest.CaptureFixture[str], name: str) -> None:
    (found,) = json.loads(said(capsys, name, "--json"))
    machine = machine_named(name)
    assert (found["name"], found["digest"]) == (machine.name, machine.digest)
    assert "pageable_link" not in found["not_modelled"]
    assert not {figure["key"].partition(".")[0] for figure in found["figures"]} & set(found["not_modelled"])
    for figure in found["figures"]:
        assert figure["origin"] in ("measured", "stated", "assumed")
        if figure["key"] not in ("gpus", "demand_loading", "copies") and not figure["key"].startswith("scale."):
            section, key = figure["key"].split(".")
            value = getattr(getattr(getattr(machine, "machine", machine), section), key)
            assert figure["value"] == (list(map(list, value)) if isinstance(value, tuple) else value)


def test_a_profile_shows_its_measured_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_profile(tmp_path / "cpu.toml", flat_profile(shape(), contention=Contention(copy_slowdown=1.5)))
    text = said(capsys, f"{tmp_path / 'cpu.toml'},scale.link=4")
    rows = [line.split() for line in text.splitlines()]
    assert {"dense", "expert", "head", "copy"} <= {row[0] for row in rows if row}
    assert "measured: flat" in text
    assert ["contention.copy_slowdown", "1.5", "times", "measured", "measured:", "flat"] in rows
    assert ["scale.link", "4", "times", "as", "fast", "assumed", "assumption:", "what", "if"] in rows


def test_an_unknown_machine_is_an_error_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["machines", "rtx3090,gpus=none"]) == 2
    assert capsys.readouterr().err == ("error: machine rtx3090,gpus=none: gpus: must be a whole number, not 'none'\n")


def test_effects_set_in_a_profiles_text_are_shown_as_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(tmp_path / "cpu.toml", flat_profile(shape(), contention=Contention(copy_slowdown=1.5)))
    text = said(capsys, f"{tmp_path / 'cpu.toml'},host.memory_bytes_per_s=5e9,demand_loading=serial")
    rows = [line.split() for line in text.splitlines()]
    assert ["host.memory_bytes_per_s", "5", "GB/s", "assumed", "assumption:", "what", "if"] in rows
    assert ["demand_loading", "serial", "assumed", "assumption:", "what", "if"] in rows
    assert ["contention.copy_slowdown", "1.5", "times", "measured"] in [row[:4] for row in rows]
