"""Texts that change a machine's figures, and machines whose parts are so many times as fast."""

from pathlib import Path

import pytest

from common.errors import UserError
from policies.types import Search
from sim.hardware.costs import Cost
from sim.hardware.data_sheet import SECTIONS, DataSheetMachine
from sim.hardware.machine_files import keys_of, machine_named
from sim.hardware.machine_text import parts_of, text_of
from sim.hardware.presets import preset
from sim.hardware.profile import write_profile
from sim.hardware.scaled import Scale, ScaledMachine
from tests.support.builders import shape
from tests.support.profiles import flat_profile

MODEL = shape()


def sheet(text: str) -> DataSheetMachine:
    found = machine_named(text)
    assert isinstance(found, DataSheetMachine)
    return found


def test_a_text_changes_the_figures_that_it_gives_and_no_others() -> None:
    found, base = sheet("rtx3090,gpus=4,host.memory_bytes_per_s=96e9,demand_loading=serial"), preset("rtx3090")
    assert (found.gpus, found.host.memory_bytes_per_s, found.demand_loading) == (4, 96e9, "serial")
    assert (found.gpu, found.host_link, found.search, found.framework) == (
        base.gpu,
        base.host_link,
        base.search,
        base.framework,
    )
    assert found.sources["gpus"] == "not stated"
    assert found.sources["gpu.memory_bytes"] == base.sources["gpu.memory_bytes"]


def test_a_machines_name_is_its_text_unless_it_sets_one() -> None:
    assert sheet("rtx3090,gpus=4").name == "rtx3090,gpus=4"
    assert sheet("rtx3090,gpus=4,name=mine").name == "mine"
    assert sheet("rtx3090,gpus=4,framework=transformers,copies=pageable").describe() == (
        "rtx3090,gpus=4,framework=transformers,copies=pageable (4 × RTX 3090, CPU 1 ms a layer, pageable copies)"
    )
    assert machine_named("rtx3090,scale.link=2,name=fast").name == "fast"
    assert machine_named("rtx3090") == preset("rtx3090")


def test_values_are_what_toml_reads_and_words_need_no_quotes() -> None:
    text = 'rtx3090, host_link.efficiency = [[65_536, 0.4], [16e6, 1.0]] , gpu.name="a, b", peer_link.bytes_per_s=inf'
    found = sheet(text)
    assert found.host_link.efficiency == ((65536.0, 0.4), (16e6, 1.0))
    assert (found.gpu.name, found.peer_link.bytes_per_s) == ("a, b", float("inf"))
    assert sheet('rtx3090,gpus={ value = 3, source = "the bill" }').sources["gpus"] == "the bill"


def test_a_text_is_joined_as_it_was_split() -> None:
    name, settings = parts_of("rtx3090,host_link.efficiency=[[1, 0.5], [2, 1]],gpu.name='x,y',gpus=2")
    assert (name, list(settings)) == ("rtx3090", ["host_link.efficiency", "gpu.name", "gpus"])
    assert parts_of(text_of(name, settings)) == (name, settings)


def test_a_framework_is_a_name_or_figures() -> None:
    assert sheet("rtx3090,framework=transformers").framework.layer_s == 1e-3
    assert sheet("rtx3090,framework=compiled").framework.layer_s == 0.05e-3
    assert sheet("rtx3090,framework=none").framework == preset("rtx3090").framework
    found = sheet("rtx3090,framework.expert_s=2e-5")
    assert (found.framework.layer_s, found.framework.expert_s) == (0.0, 2e-5)


def test_a_named_framework_takes_the_place_of_all_inherited_figures(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "rtx3090"\n[framework]\nlayer_s = 0.5\nexpert_s = { value = 0.25, source = "me" }\n')
    assert sheet(f"{path},framework.layer_s=0.75").framework.expert_s == 0.25
    replaced = sheet(f"{path},framework=none")
    assert (replaced.framework.layer_s, replaced.framework.expert_s) == (0.0, 0.0)
    assert not any(key.startswith("framework") for key in replaced.sources)
    named = sheet(f"{path},framework=compiled")
    assert named.sources["framework.expert_s"].startswith("assumption")
    assert named.name == "mine,framework=compiled"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rtx3090,gpuss=2", "gpuss: is not a setting of rtx3090; did you mean 'gpus'?"),
        ("rtx3090,hst.memory_bytes_per_s=3", "is not a setting of rtx3090; did you mean 'host.memory_bytes_per_s'?"),
        ("rtx3090,scale.links=3", "scale.links: is not a setting of rtx3090; did you mean 'scale.link'?"),
        ("rtx3090,extends=rtx4090", "extends: is not a setting of rtx3090; "),
        ("rtx3090,gpus=0", "gpus: must be at least 1, not 0"),
        ("rtx3090,gpus=two", "gpus: must be a whole number, not 'two'"),
        ("rtx3090,gpus=2,gpus=3", "gpus: is set twice"),
        ("rtx3090,gpus", "gpus: must be KEY=VALUE, not 'gpus'"),
        ("rtx3090,=3", "=3: must be KEY=VALUE, not '=3'"),
        ("rtx3090,", "after a comma: must be KEY=VALUE, not ''"),
        ("rtx3090,gpus=", "gpus: must be a number, a word, a list or a table, not ''"),
        ("rtx3090,gpus=[1", "gpus: must be a number, a word, a list or a table, not '[1'"),
        ("rtx3090,name=3", "name: must be a string, not 3"),
        ("rtx3090,scale.link=0", "scale.link: must be above 0, not 0.0"),
        ("rtx3090,scale.link=inf", "scale.link: must be a finite number, not inf"),
        ("rtx3090,scale.cpu=fast", "scale.cpu: must be a number, not 'fast'"),
        ("rtx3090,framework=vllm", "framework: unknown framework 'vllm'; known: none, compiled, transformers, or a "),
        ("rtx3090,framework=none,framework.layer_s=2", "framework.layer_s: framework is also set as a whole"),
        ("rtx3090,framework.layer_s=2,framework=none", "framework: is set both as a whole and in part"),
        ("rtx3090,contention.copy_slowdown=0.5", "contention.copy_slowdown: must be at least 1, not 0.5"),
        ("rtx3090,demand_loading=one", "demand_loading: must be parallel or serial, not 'one'"),
        ("paper-a100,copies=pageable", "copies: pageable needs a table pageable_link"),
        (
            "rtx3090,efficiency.head_flops=[[2,0.3],[1,0.3]]",
            "efficiency.head_flops: sizes must be above 0 and increase, but 1 follows 2",
        ),
    ],
)
def test_a_mistake_in_a_text_is_one_line_with_text_and_key(text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        machine_named(text)
    assert str(error.value).startswith(f"machine {text}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_a_text_changes_and_that_is_missing_is_named() -> None:
    with pytest.raises(UserError, match=r"^none\.toml: does not exist$"):
        machine_named("none.toml,gpus=2")


def test_every_figure_of_a_sheet_can_be_changed_by_a_text_and_changes_the_digest() -> None:
    base = "rtx3090,pageable_link.efficiency=[[1,1]]"
    known = {f"{section}.{key}" for section, part in SECTIONS.items() for key in part.__dataclass_fields__}
    assert known < set(keys_of(preset("rtx3090")))
    digests = [sheet(base).digest]
    for key in sorted(known - {"pageable_link.efficiency"}):
        value = "x" if key == "gpu.name" else "[[3,0.5]]" if "efficiency" in key else "7"
        digests.append(sheet(f"{base},name=one,{key}={value}").digest)
    assert len(set(digests)) == len(digests)


FACTORS = {"link": 2.0, "host": 4.0, "compute": 8.0, "cpu": 16.0, "search": 0.5}


def costs(cost: Cost) -> dict[str, tuple[float, ...]]:
    """What each factor divides."""
    effects = cost.effects
    return {
        "link": (cost.copy_s(24), cost.copy_latency_s(24), cost.least_copy_s(24), cost.exchange_s(3)),
        "host": (1 / effects.host_bytes_per_s,),
        "compute": (cost.launch_s, cost.dense_s(1, 1, 1), cost.expert_s(2), cost.head_s(1)),
        "cpu": (cost.driving_s, effects.layer_host_s, effects.expert_host_s),
        "search": (cost.search_s(Search("update", 1, 2, 18, 30)),),
    }


@pytest.fixture(params=["sheet", "profile"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A machine with every effect on, as a text."""
    if request.param == "profile":
        write_profile(tmp_path / "measured.toml", flat_profile(MODEL))
        return str(tmp_path / "measured.toml")
    effects = "framework=transformers,host.memory_bytes_per_s=96e9,contention.copy_slowdown=1.5"
    return f"rtx3090x6,{effects}"


@pytest.mark.parametrize("name", FACTORS)
def test_a_factor_divides_the_times_of_its_part_and_leaves_the_others(base: str, name: str) -> None:
    before = costs(machine_named(base).cost(MODEL))
    after = costs(machine_named(f"{base},scale.{name}={FACTORS[name]}").cost(MODEL))
    for part, seconds in before.items():
        factor = FACTORS[name] if part == name else 1
        assert after[part] == tuple(each / factor for each in seconds)


def test_a_scaled_machine_is_otherwise_the_same(base: str) -> None:
    scaled, plain = machine_named(f"{base},scale.cpu=2,scale.link=0.5"), machine_named(base)
    for what in ("gpus", "links", "gpu_memory_bytes", "demand_loading"):
        assert getattr(scaled, what) == getattr(plain, what)
    assert scaled.describe() == f"{plain.describe()} with link × 0.5, cpu × 2"
    assert scaled.cost(MODEL).effects.copy_slowdown == plain.cost(MODEL).effects.copy_slowdown


def test_digests_of_scaled_machines_differ_with_machine_and_factor() -> None:
    texts = [
        f"{name},scale.{part}={factor}" for name in ("rtx3090", "rtx4090") for part in FACTORS for factor in (2, 4)
    ]
    digests = {machine_named(f"{text},name=one").digest for text in texts}
    assert len(digests) == len(texts)


def test_a_factor_of_one_is_none() -> None:
    assert machine_named("rtx3090,scale.link=1") == preset("rtx3090")


def test_a_profile_keeps_its_gpus_whatever_a_text_says(tmp_path: Path) -> None:
    path = tmp_path / "measured.toml"
    write_profile(path, flat_profile(MODEL))
    assert machine_named(f"{path},name=mine").name == "mine"
    found = machine_named(f"{path},scale.compute=2")
    assert isinstance(found, ScaledMachine)
    assert (found.name, found.scale) == ("flat,scale.compute=2", Scale(compute=2))
    with pytest.raises(UserError, match="gpus: is not a setting of flat; known: contention"):
        machine_named(f"{path},gpus=2")
