"""The matrix of an experiment: every combination once, and whatever cannot be a run with its reason."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from sim.experiment import Experiment, read_experiment
from sim.scenario import CacheSize, Scenario

BASE = Scenario("a.trace", policy="lru", cache=CacheSize(gb=6))


def points(**tables: Any) -> list[dict[str, Any]]:
    return [dict(run.point) for run in Experiment(scenario=BASE, **tables).matrix()]


def test_a_grid_is_every_combination_and_the_last_axis_varies_fastest() -> None:
    grid = {"policy": ["lru", "lfu"], "cache.share": [0.25, 0.5], "seed": [0, 1, 2]}
    wanted = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    assert points(grid=grid) == wanted
    runs = Experiment(scenario=BASE, grid=grid).matrix()
    assert [run.scenario for run in runs] == [
        Scenario("a.trace", policy=each["policy"], cache=CacheSize(share=each["cache.share"]), seed=each["seed"])
        for each in wanted
    ]


def test_values_of_a_zip_go_together_and_a_list_goes_point_by_point() -> None:
    found = points(
        grid={"seed": [0, 1]},
        zip={"machine": ["rtx3090", "paper-a100"], "cache.share": [0.1, 0.9]},
        list=[{"batch_size": 1}, {"batch_size": 4, "requests": 8}],
    )
    assert found == [
        {"seed": seed, "machine": machine, "cache.share": share, **point}
        for seed in (0, 1)
        for machine, share in (("rtx3090", 0.1), ("paper-a100", 0.9))
        for point in ({"batch_size": 1}, {"batch_size": 4, "requests": 8})
    ]


def test_several_zips_are_combined() -> None:
    zips = [{"seed": [0, 1]}, {"batch_size": [1, 2], "requests": [3, 4]}]
    assert len(points(zip=zips)) == 4


def test_tables_within_tables_and_dotted_names_are_the_same() -> None:
    assert points(grid={"cache": {"gb": [1, 2]}}) == points(grid={"cache.gb": [1, 2]})


def test_a_setting_goes_to_the_policies_that_have_it_and_the_others_run_once() -> None:
    runs = Experiment(
        scenario=BASE, grid={"policy": ["finemoe+lru", "lru"], "policy.prefetch_distance": [1, 6]}
    ).matrix()
    assert [run.scenario.policy for run in runs if run.scenario] == [
        "finemoe,prefetch_distance=1+lru",
        "finemoe,prefetch_distance=6+lru",
        "lru",
    ]
    assert [dict(run.point) for run in runs][2] == {"policy": "lru"}


def test_true_and_false_are_settings_too() -> None:
    (run,) = Experiment(scenario=BASE, grid={"policy": ["finemoe"], "policy.learn": [False]}).matrix()
    assert run.scenario is not None
    assert run.scenario.policy == "finemoe,learn=false"


def test_a_figure_of_the_machine_goes_into_its_text() -> None:
    grid = {"machine": ["rtx3090", "mine.toml,gpus=2"], "machine.host_link.bytes_per_s": [2.65e10, 12345678.5]}
    runs = Experiment(scenario=BASE, grid=grid | {"machine.scale.cpu": [2]}).matrix()
    assert [run.scenario.machine for run in runs if run.scenario] == [
        "rtx3090,host_link.bytes_per_s=2.65e+10,scale.cpu=2",
        "rtx3090,host_link.bytes_per_s=12345678.5,scale.cpu=2",
        "mine.toml,gpus=2,host_link.bytes_per_s=2.65e+10,scale.cpu=2",
        "mine.toml,gpus=2,host_link.bytes_per_s=12345678.5,scale.cpu=2",
    ]
    assert [run.value("machine.scale.cpu") for run in runs] == [2, 2, 2, 2]
    assert Experiment(scenario=BASE, list=[{"machine.gpus": 2}, {}]).matrix()[1].value("machine.gpus") is None


def test_a_figure_that_the_machine_already_sets_is_refused() -> None:
    grid = {"machine": ["rtx3090,gpus=2", "rtx3090"], "machine.gpus": [4]}
    assert [run.problem for run in Experiment(scenario=BASE, grid=grid).matrix()] == [
        "machine.gpus: cannot be 4, because machine rtx3090,gpus=2 already sets it",
        None,
    ]


def test_an_impossible_run_is_kept_with_its_reason() -> None:
    good, bad = Experiment(scenario=BASE, grid={"cache.share": [0.5, 1.5]}).matrix()
    assert good.problem is None
    assert bad.scenario is None
    assert bad.problem == "cache.share: must be above 0 and at most 1, not 1.5"
    assert dict(bad.point) == {"cache.share": 1.5}


def test_1_and_true_are_different_values() -> None:
    assert len(points(grid={"seed": [1, True]})) == 2


def test_a_comparison_varies_the_policy_only() -> None:
    experiment = Experiment(scenario=BASE, grid={"policy": ["lru", "lfu"], "seed": [0, 1]})
    with pytest.raises(UserError, match=r"^axis seed: a comparison varies only the policy"):
        experiment.scenarios()


@pytest.mark.parametrize(
    "tables",
    [
        {"grid": {"policy": ["lru", "finemoe"], "policy.prefetch_distance": [1, 2], "cache.gb": [1.5]}},
        {"zip": [{"seed": [0, 1], "cache.share": [0.1, 0.2]}], "list": [{"batch_size": 2}]},
    ],
)
def test_a_file_gives_the_same_matrix(tmp_path: Path, tables: dict[str, Any]) -> None:
    experiment = Experiment(scenario=BASE, **tables)
    experiment.write(tmp_path / "a.toml")
    assert Experiment.read(tmp_path / "a.toml") == experiment
    assert Experiment.read(tmp_path / "a.toml").matrix() == experiment.matrix()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[grid]\nsede = [1]", "grid.sede: is not a field of a scenario; did you mean 'seed'?"),
        ("[grid]\ncache = [1]", "grid.cache: is not a field of a scenario; did you mean 'cache.gb'?"),
        ("[grid]\nseed = []", "grid.seed: is empty; an axis has at least one value"),
        ("[grid]\nseed = 3", "grid.seed: must be a list, not 3"),
        ("[grid]\nseed = [[1]]", "grid.seed: must be a string, a number, true or false, not [1]"),
        (
            "[grid]\nlabel = ['a']",
            "grid.label: does not affect results and cannot be an axis; set it in `scenario.label`",
        ),
        ("[grid]\nseed = [1]\n[[list]]\nseed = 2", "grid.seed: is listed as an axis more than once"),
        ("[zip]\nseed = [1, 2]\nrequests = [1]", "zip.requests: has 1 values, zip.seed has 2"),
        ("[[list]]\nseed = [1]", "list.seed: must be a string, a number, true or false, not [1]"),
        ("[grid]\n'cache.gb' = [1]\ncache.gb = [2]", "grid.cache.gb: is given twice"),
        (
            "[grid]\n'policy.prefetch_distanse' = [1]",
            "grid.policy.prefetch_distanse: no policy of this experiment has a setting 'prefetch_distanse'; "
            "did you mean 'prefetch_distance'?",
        ),
        (
            "[grid]\n'machine.host_link.bytes_pre_s' = [1]",
            "grid.machine.host_link.bytes_pre_s: no machine has a figure 'host_link.bytes_pre_s'; "
            "did you mean 'host_link.bytes_per_s'?",
        ),
        ("list = 3", "list: must be a list of tables, not 3"),
    ],
)
def test_a_mistake_names_file_and_axis(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"{text}\n[scenario]\ntrace = 'a'\n")
    with pytest.raises(UserError) as raised:
        read_experiment(path, {})
    assert str(raised.value) == f"{path}: {said}"


def test_a_point_that_leaves_out_an_axis_has_the_scenario_s_value_there() -> None:
    one, two = Experiment(scenario=BASE, list=[{"batch_size": 4}, {"requests": 8}]).matrix()
    assert [one.value(name) for name in ("batch_size", "requests", "cache.gb", "cache.share")] == [4, None, 6.0, None]
    assert [two.value(name) for name in ("batch_size", "requests")] == [1, 8]


def test_a_matrix_that_is_too_large_is_refused_at_once() -> None:
    grid = {"seed": range(1000), "requests": range(1, 1001)}
    with pytest.raises(UserError, match="the axes have 1,000,000 combinations; a sweep has at most 100,000"):
        Experiment(scenario=BASE, grid=grid).matrix()
