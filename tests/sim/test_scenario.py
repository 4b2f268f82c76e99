"""A scenario: one declaration for Python, TOML and the command line."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import FieldError, UserError
from common.settings import descriptions, from_data, to_data
from sim.experiment import Experiment, read_experiment
from sim.hardware.presets import preset_names
from sim.scenario import CacheSize, Scenario
from sim.scenario_options import FIELDS
from tests.support.builders import shape
from traces.published_models import PUBLISHED

FULL = Scenario(
    Path("a.trace"),
    policy="finemoe,prefetch_distance=6+lhd",
    sizes="mixtral-8x7b",
    machine="paper-a100",
    cache=CacheSize(gb=6),
    history=Path("b.trace"),
    train_split=0.5,
    requests=7,
    batch_size=2,
    placement="balanced",
    counts=Path("counts.parquet"),
    replicas=2,
    chunk_bytes="whole",
    seed=3,
    detail="events",
    check=True,
    label="mine",
)

UNLABELLED = replace(FULL, label=None)  # a label names one policy


def test_a_path_may_be_given_as_text() -> None:
    assert Scenario("a.trace").trace == Path("a.trace")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"cache": {"gb": 6, "share": 0.5}},
            "cache.gb: give exactly one of `cache.experts`, `cache.share` and `cache.gb`",
        ),
        ({"cache": {}}, "cache.share: give exactly one of `cache.experts`, `cache.share` and `cache.gb`"),
        ({"cache": {"gib": 6}}, "cache.gib: is not a setting; did you mean 'gb'?"),
        ({"counts": "a.parquet"}, "counts: needs `placement` balanced, not round-robin"),
        ({"detail": "all"}, "detail: must be requests, iterations or events, not 'all'"),
        ({"polcy": "lru"}, "polcy: is not a setting; did you mean 'policy'?"),
        ({"seed": -1}, "seed: must be at least 0, not -1"),
        ({"chunk_bytes": 0}, "chunk_bytes: must be at least 1, not 0"),
        ({"chunk_bytes": "all"}, "chunk_bytes: must be a number or whole, not 'all'"),
        ({"chunk_bytes": 1.5}, "chunk_bytes: must be a whole number, not 1.5"),
    ],
)
def test_a_mistake_names_the_field(given: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldError) as raised:
        from_data(Scenario, {"trace": "a.trace"} | given)
    assert str(raised.value) == said


def test_slots_are_rounded_down_and_no_more_than_there_are_experts() -> None:
    model = shape(2, 4)  # 8 experts
    assert CacheSize(experts=5).slots(model) == 5
    assert CacheSize(share=0.49).slots(model) == 3
    assert CacheSize(gb=2.5 * model.expert_bytes / 1e9).slots(model) == 2
    assert CacheSize(gb=1e6).slots(model) == 8


@pytest.mark.parametrize(
    "experiment", [Experiment(scenario=FULL), Experiment(scenario=UNLABELLED, grid={"policy": ("lru", "lfu")})]
)
def test_an_experiment_reads_back_what_it_wrote(tmp_path: Path, experiment: Experiment) -> None:
    experiment.write(tmp_path / "a.toml")
    assert read_experiment(tmp_path / "a.toml", {}) == experiment


@pytest.mark.parametrize("policies", [(), ("lru", "lfu")])
def test_a_file_has_every_setting_so_that_later_defaults_change_nothing(
    tmp_path: Path, policies: tuple[str, ...]
) -> None:
    grid = {"policy": policies} if policies else {}
    Experiment(scenario=UNLABELLED, grid=grid).write(tmp_path / "a.toml")
    written = tomllib.loads((tmp_path / "a.toml").read_text())
    axes = {"policy"} if policies else set()
    assert written["scenario"].keys() == to_data(UNLABELLED).keys() - axes
    assert written.get("grid", {}).keys() == axes


def test_policies_are_an_axis_and_run_once_each() -> None:
    experiment = Experiment(scenario=UNLABELLED, grid={"policy": ("lru", "lfu", "lru")})
    assert [each.policy for each in experiment.scenarios()] == ["lru", "lfu"]
    assert [each.policy for each in Experiment(scenario=FULL).scenarios()] == [FULL.policy]


def test_given_values_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    Experiment(scenario=UNLABELLED, grid={"policy": ("lru", "lfu")}).write(path)
    found = read_experiment(path, {("seed",): 5, ("cache", "share"): 0.5, ("policy",): ("belady",)})
    assert found.scenario.seed == 5
    assert found.scenario.cache == CacheSize(share=0.5)  # in place of the gigabytes
    assert [each.policy for each in found.scenarios()] == ["belady"]
    assert found.scenario.train_split == FULL.train_split


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[scenario]\ntrace = 'a'\nsede = 3", "scenario.sede: is not a setting; did you mean 'seed'?"),
        ("[scenario]\ntrace = 'a'\nseed = '3'", "scenario.seed: must be a whole number, not '3'"),
        ("[scenario]\ntrace = 'a'\ncache.gb = -1", "scenario.cache.gb: must be above 0, not -1.0"),
        ("[scenario]\ntrace = 'a'\n[gird]\npolicy = ['lru']", "gird: is not a setting; did you mean 'grid'?"),
        ("[scenario]\ntrace = 'a'\n[grid]\npolicy = 'lru'", "grid.policy: must be a list, not 'lru'"),
        ("scenario = 3", "scenario: must be a table, not 3"),
        ("[scenario]", "scenario.trace: is required"),
        ("[scenario", "is not TOML: "),
        (
            "[scenario]\ntrace = 'a'\npolicy = 'lru'\n[grid]\npolicy = ['lfu']",
            "scenario.policy and grid.policy: give only one of them",
        ),
        (
            "[scenario]\ntrace = 'a'\nlabel = 'mine'\n[grid]\npolicy = ['lru', 'lfu']",
            "scenario.label: 'mine' cannot name several policies",
        ),
        ("[scenario]\ntrace = 'a'\nseed = 9223372036854775808", "scenario.seed: "),
    ],
)
def test_a_mistake_in_a_file_names_the_file_and_the_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        read_experiment(path, {})
    assert str(raised.value).startswith(f"{path}: {said}")
    assert not isinstance(raised.value, FieldError)


def test_a_mistake_in_a_given_value_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    Experiment(scenario=FULL).write(tmp_path / "a.toml")
    with pytest.raises(FieldError, match=r"^cache\.gb: must be above 0, not -1\.0$"):
        read_experiment(tmp_path / "a.toml", {("cache", "gb"): -1.0})


def test_every_field_but_the_label_is_an_option_and_described() -> None:
    names = {*to_data(FULL)} | {"history", "counts"}
    assert set(FIELDS) == names - {"label"}
    assert set(descriptions(Scenario)) == names


def test_descriptions_name_what_can_be_chosen() -> None:
    said = descriptions(Scenario)
    assert all(name in said["sizes"] for name in PUBLISHED)
    assert all(name in said["machine"] for name in preset_names())
