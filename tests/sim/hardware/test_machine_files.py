"""Which machine a text names, and what files of machines may say."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import UserError
from common.settings import to_data
from sim.hardware.data_sheet import SECTIONS, CostModel
from sim.hardware.machine import Machine
from sim.hardware.machine_files import keys_of, machine_named
from sim.hardware.origins import NO_SOURCE
from sim.hardware.presets import framework_names, preset, preset_names, read_data_sheet
from sim.hardware.profile import MeasuredCost, write_profile
from tests.support.builders import machine, shape
from tests.support.profiles import flat_profile

MODEL = shape()
REQUIRED = ("gpu", "host_link", "peer_link", "search")

WHOLE = """\
name = "mine"
gpus = 2

[gpu]
name = "H100"
flops_per_s = { value = 989e12, source = "data sheet" }
memory_bytes_per_s = 3.35e12
memory_bytes = 80e9
overhead_s = 1e-5

[host_link]
bytes_per_s = 64e9
latency_s = 1e-5

[peer_link]
bytes_per_s = inf
latency_s = 0

[search]
overhead_s = 2e-5
bytes_per_s = 2e10
flops_per_s = 2e11
"""


def written(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", preset_names())
def test_a_name_is_a_preset(name: str) -> None:
    assert machine_named(name) == preset(name)


@pytest.mark.parametrize("name", preset_names())
def test_every_figure_of_a_preset_has_a_source(name: str) -> None:
    sources = preset(name).sources
    data, off = to_data(preset(name)), to_data(machine())
    figures = {
        f"{section}.{key}"
        for section in SECTIONS
        for key in data.get(section, ())
        if key != "name" and (section not in off or section in REQUIRED or data[section][key] != off[section][key])
    }
    optional = {"host_link.efficiency", "peer_link.efficiency", "pageable_link.efficiency"}
    assert sources.keys() - optional == figures - optional | {"gpus", "demand_loading", "copies"}
    assert all(source.startswith(("data sheet", "paper §", "assumption", "measured")) for source in sources.values())


@pytest.mark.parametrize("name", preset_names())
def test_a_file_that_only_extends_a_preset_is_that_preset_by_another_name(tmp_path: Path, name: str) -> None:
    found = read_data_sheet(written(tmp_path, f'extends = "{name}"'))
    assert found == replace(preset(name), name="mine")
    assert found.sources == preset(name).sources


def test_a_file_changes_only_the_figures_that_it_lists(tmp_path: Path) -> None:
    text = 'extends = "rtx3090"\ngpus = 4\n[gpu]\nmemory_bytes = { value = 48e9, source = "data sheet" }\n'
    found, base = read_data_sheet(written(tmp_path, text)), preset("rtx3090")
    assert found == replace(base, name="mine", gpus=4, gpu=replace(base.gpu, memory_bytes=48e9))
    assert found.sources == {**base.sources, "gpus": NO_SOURCE, "gpu.memory_bytes": "data sheet"}


def test_a_file_may_describe_a_whole_machine(tmp_path: Path) -> None:
    found = read_data_sheet(written(tmp_path, WHOLE, "other"))
    assert found.name == "mine"
    assert found.describe() == "mine (2 × H100)"
    assert (found.gpu.flops_per_s, found.gpu.memory_bytes, found.peer_link.latency_s) == (989e12, 80e9, 0.0)
    assert found.peer_link.bytes_per_s == math.inf
    assert {key for key, source in found.sources.items() if source != NO_SOURCE} == {"gpu.flops_per_s"}


def test_a_file_may_extend_one_beside_it_which_extends_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, WHOLE, "first")
    written(tmp_path, 'extends = "first.toml"\ngpus = 4', "second")
    third = written(tmp_path, 'extends = "second.toml"\n[host_link]\nlatency_s = 0.5', "third")
    monkeypatch.chdir("/")  # beside the file, not in the current folder
    found = read_data_sheet(third)
    assert (found.name, found.gpus, found.host_link.latency_s, found.host_link.bytes_per_s) == ("third", 4, 0.5, 64e9)


def test_the_example_of_the_documentation_is_a_machine(tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "machines.md"
    example = page.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    found = read_data_sheet(written(tmp_path, example, "desk"))
    assert found.describe() == "desk (2 × RTX 4090, CPU 0.05 ms a layer, rates below peak)"
    assert found.sources["host.memory_bytes_per_s"] == "data sheet: two channels of DDR5-4800"


def test_the_documentation_lists_every_key_and_preset() -> None:
    page = (Path(__file__).parents[3] / "docs" / "machines.md").read_text(encoding="utf-8")
    keys = ["extends", *keys_of(preset("rtx3090")), *framework_names()]
    assert [key for key in [*keys, *preset_names()] if f"`{key}`" not in page and f'`"{key}"`' not in page] == []


def test_the_digest_covers_every_figure_and_no_source(tmp_path: Path) -> None:
    sheet = read_data_sheet(written(tmp_path, WHOLE))
    assert replace(sheet, sources={}).digest == sheet.digest
    changed = [sheet.digest]
    for section, part in SECTIONS.items():
        figures = getattr(sheet, section) or sheet.host_link
        for key in part.__dataclass_fields__:
            curve = section == "efficiency" or key == "efficiency"
            value = "another" if key == "name" else ((8.0, 0.25),) if curve else 1.25
            changed.append(replace(sheet, **{section: replace(figures, **{key: value})}).digest)
    pageable = replace(sheet, pageable_link=sheet.host_link)
    changed += [pageable.digest, replace(pageable, copies="pageable").digest]
    changed += [replace(sheet, demand_loading="serial").digest]
    changed += [replace(sheet, gpus=3).digest, replace(sheet, name="other").digest]
    assert len(set(changed)) == len(changed)


EXTENDS = 'extends = "rtx3090"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu = = 3", "is not TOML: "),
        ("", "gpus: is required"),
        (WHOLE.replace("gpus = 2\n", ""), "gpus: is required"),
        (WHOLE.replace("latency_s = 0\n", ""), "peer_link.latency_s: is required"),
        (EXTENDS + "gpu_count = 3", "gpu_count: is not a setting; "),
        (EXTENDS + "gpuss = 3", "gpuss: is not a setting; did you mean 'gpus'?"),
        (EXTENDS + "[gpu]\nmemory_byte = 3", "gpu.memory_byte: is not a setting; did you mean 'memory_bytes'?"),
        (EXTENDS + "[sources]\ngpus = 'me'", "sources: is not a setting; "),
        (EXTENDS + "gpus = 0", "gpus: must be at least 1, not 0"),
        (EXTENDS + "gpus = true", "gpus: must be a whole number, not True"),
        (EXTENDS + "gpus = 1.5", "gpus: must be a whole number, not 1.5"),
        (EXTENDS + "name = 3", "name: must be a string, not 3"),
        (EXTENDS + "name = ''", "name: must be a printable name, not ''"),
        (EXTENDS + "gpu = 3", "gpu: must be a table"),
        (EXTENDS + '[gpu]\nname = "a\\u0007"', "gpu.name: must be a printable name, not 'a\\x07'"),
        (EXTENDS + "[gpu]\nflops_per_s = 'fast'", "gpu.flops_per_s: must be a number, not 'fast'"),
        (EXTENDS + "[gpu]\nflops_per_s = 0", "gpu.flops_per_s: must be above 0, not 0.0"),
        (EXTENDS + "[gpu]\nflops_per_s = nan", "gpu.flops_per_s: must be a finite number, not nan"),
        (EXTENDS + "[gpu]\nmemory_bytes = inf", "gpu.memory_bytes: must be a finite number, not inf"),
        (EXTENDS + "[host_link]\nlatency_s = -1", "host_link.latency_s: must be at least 0, not -1.0"),
        (EXTENDS + "[search.bytes_per_s]\nvalue = 1", "search.bytes_per_s.source: is required"),
        (EXTENDS + "[search.bytes_per_s]\nsource = 'me'", "search.bytes_per_s.value: is required"),
        (EXTENDS + "[search]\nbytes_per_s = {}", "search.bytes_per_s.value: is required"),
        (
            EXTENDS + "[search]\nbytes_per_s = { value = 1, sorce = 'me' }",
            "search.bytes_per_s.sorce: is not a setting; did you mean 'source'?",
        ),
        (
            EXTENDS + "[search]\nbytes_per_s = { value = 1, source = 2 }",
            "search.bytes_per_s.source: must be a string, not 2",
        ),
        (
            EXTENDS + "[search]\nbytes_per_s = { value = 'x', source = 'me' }",
            "search.bytes_per_s: must be a number, not 'x'",
        ),
        ("extends = 3", "extends: must be a string, not 3"),
        ("extends = 'h100'", "extends: unknown machine 'h100'; known: a100-80gb, h100-80gb, h200-141gb, paper-a100, "),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as error:
        machine_named(str(path))
    assert str(error.value).startswith(f"{path}: {said}")
    assert "\n" not in str(error.value)


def test_a_mistake_in_what_is_extended_names_that_file(tmp_path: Path) -> None:
    base = written(tmp_path, EXTENDS + "gpus = 0", "base")
    path = written(tmp_path, 'extends = "base.toml"\ngpus = 2')
    with pytest.raises(UserError) as error:
        read_data_sheet(path)
    assert str(error.value) == f"{base}: gpus: must be at least 1, not 0"


def test_a_file_that_is_extended_and_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/none\.toml: does not exist$"):
        read_data_sheet(written(tmp_path, 'extends = "none.toml"'))


@pytest.mark.parametrize("names", ["a", "ab", "abc"])
def test_files_that_extend_each_other_in_a_circle_are_named(tmp_path: Path, names: str) -> None:
    for name, other in zip(names, names[1:] + names[0], strict=True):
        written(tmp_path, f'extends = "{other}.toml"', name)
    with pytest.raises(UserError) as error:
        read_data_sheet(tmp_path / "a.toml")
    circle = " → ".join(str(tmp_path / f"{name}.toml") for name in names + "a")
    assert str(error.value) == f"{tmp_path / names[-1]}.toml: extends: files extend each other in a circle: {circle}"


def test_profiles_and_data_sheets_are_recognised_by_their_contents(tmp_path: Path) -> None:
    profile = flat_profile(MODEL)
    write_profile(tmp_path / "a100.toml", profile)
    assert machine_named(str(tmp_path / "a100.toml")) == profile


@pytest.mark.parametrize("section", ["model", "driving", "search", "expert"])
def test_a_profile_without_a_section_is_still_a_profile(tmp_path: Path, section: str) -> None:
    path = tmp_path / "a.toml"
    write_profile(path, flat_profile(MODEL))
    path.write_text(path.read_text().replace(f"[{section}]", f"[{section}s]"))
    with pytest.raises(UserError, match=f"unknown key '{section}s'; did you mean '{section}'"):
        machine_named(str(path))


@pytest.mark.parametrize("section", ["gpu", "host_link", "search"])
def test_a_data_sheet_without_a_section_is_still_one(tmp_path: Path, section: str) -> None:
    path = written(tmp_path, WHOLE.replace(f"[{section}]", f"[{section}_]"))
    with pytest.raises(UserError, match=f"{section}_: is not a setting; did you mean '{section}'"):
        machine_named(str(path))


@pytest.mark.parametrize(("text", "said"), [("a100.tom", "unknown machine 'a100.tom'"), ("a100.toml", "a100.toml: ")])
def test_a_file_that_is_neither_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        machine_named(text)


def test_a_preset_costs_a_roofline_and_a_profile_what_was_measured() -> None:
    roofline, measured = preset("paper-a100").cost(MODEL), flat_profile(MODEL).cost(MODEL)
    assert isinstance(roofline, CostModel)
    assert (roofline.model, roofline.machine) == (MODEL, preset("paper-a100"))
    assert isinstance(measured, MeasuredCost)
    assert measured.profile == flat_profile(MODEL)


def test_a_profile_refuses_a_model_that_it_was_not_measured_with() -> None:
    with pytest.raises(UserError, match="measured for hand-made with layers 2, but hand-made has layers 3"):
        flat_profile(MODEL).cost(shape(3))


def test_data_sheets_and_profiles_are_machines_alike() -> None:
    both: list[Machine] = [machine(3), flat_profile(MODEL, gpus=2)]
    assert [each.describe() for each in both] == [
        "hand-made (3 × slow)",
        "a measured profile of flat (2 logical devices)",
    ]
    assert [(each.gpus, each.links) for each in both] == [(3, 3), (2, 2)]
    assert [each.gpu_memory_bytes for each in both] == [1e6, None]
