"""A sweep: every run once, whatever has happened before, and nothing lost."""

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tqdm

from common.errors import UnknownNameError
from policies.evictors.recency import LeastRecentlyUsed
from sim.experiment import Experiment
from sim.inputs import resolve
from sim.results.bounds import makespan_lower_bound_s
from sim.scenario import CacheSize, Scenario
from sim.simulation import simulate
from sim.store.result_store import ResultStore
from sim.sweeps.sweep import Sweep
from sim.sweeps.sweep_plan import SweepPlan
from sim.sweeps.sweep_run import run_sweep
from sim.sweeps.workers import Workers
from tests.support.sweep_runs import HERE, begun_again, events, run_bytes, small_experiment
from tests.support.terminal import terminal

KNOW_ALL = ["clairvoyant", *(f"perfect-prefetch,prefetch_distance={each}+belady" for each in (3, 4))]  # of 4 layers
FOUR = {"policy": ["finemoe", "lru"], "cache.experts": [8, 16]}
EVERYTHING = ("no-offload", "best-known", "own-cache", "lower-bound", "regret")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(scope="module")
def swept(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path]:
    """Four runs without references, and their store, of which only copies may be changed."""
    store = tmp_path_factory.mktemp("swept") / "store"
    return run_sweep(small_experiment(trace, grid=FOUR), store=store, references=(), workers=HERE), store


def test_a_row_of_a_sweep_is_what_simulating_its_scenario_gives(trace: Path, swept: tuple[Sweep, Path]) -> None:
    experiment, frame = small_experiment(trace, grid=FOUR), swept[0].frame
    assert len(frame) == 4
    for row, run in zip(frame.to_dict("records"), experiment.matrix(), strict=True):
        assert run.scenario is not None
        result = simulate(run.scenario)
        assert row["key"] == result.content_hash
        for name, value in result.summary.items():
            assert row[name] == value or (value is None and row[name] != row[name]) or row[name] is value, name


def test_reference_columns_are_what_simulating_the_references_gives(trace: Path, store: Path) -> None:
    (row,) = run_sweep(
        small_experiment(trace, grid={"policy": ["finemoe,prefetch_distance=2"]}),
        store=store,
        references=EVERYTHING,
        workers=HERE,
    ).frame.to_dict("records")
    base = Scenario(trace, machine="rtx3090")
    for name, policy in {
        "no_offload": "no-offload",
        "belady": "finemoe,prefetch_distance=2+belady",
        "perfect_prefetch": "perfect-prefetch,prefetch_distance=2+finemoe",
    }.items():
        assert row[f"{name}_tpot_s_mean"] == simulate(replace(base, policy=policy)).summary["tpot_s_mean"]
    know_all = {each: simulate(replace(base, policy=each)).summary["tpot_s_mean"] for each in KNOW_ALL}
    assert row["best_known_tpot_s_mean"] == min(know_all.values())
    assert row["best_known"] == " = ".join(name for name in KNOW_ALL if know_all[name] == min(know_all.values()))
    own_cache = simulate(replace(base, policy="finemoe,prefetch_distance=2", prefetch=False)).summary
    assert (row["own_cache_tpot_s_mean"], row["own_cache_ttft_s_mean"]) == (
        own_cache["tpot_s_mean"],
        own_cache["ttft_s_mean"],
    )
    assert row["prefetching_pays"] == (row["tpot_s_mean"] <= own_cache["tpot_s_mean"])
    resident = simulate(replace(base, policy="no-offload")).iterations
    assert resident is not None
    least_s = makespan_lower_bound_s(base, resolve(base), resident["end_s"].to_numpy())
    assert row["makespan_lower_bound_s"] == least_s <= row["makespan_s"]


def test_no_offload_runs_once_for_all_sizes_of_the_cache(trace: Path, store: Path) -> None:
    plan = SweepPlan.of(small_experiment(trace, grid={"policy": ["lru"], "cache.experts": [8, 12, 16]}), EVERYTHING)
    policies = [task.scenario.policy for task in plan.tasks() if not task.bound]
    assert sorted(policies) == sorted(["lru", "lru+belady", "perfect-prefetch+lru", *KNOW_ALL] * 3 + ["no-offload"])


def test_references_run_only_if_they_are_asked_for(swept: tuple[Sweep, Path]) -> None:
    frame, store = swept[0].frame, swept[1]
    assert len(list(ResultStore.open(store).runs())) == len(frame) == 4
    assert frame["best_known_tpot_s_mean"].isna().all()


def test_a_second_sweep_computes_what_is_new_and_nothing_else(trace: Path, store: Path) -> None:
    small = small_experiment(trace, grid={"policy": ["lru"], "cache.experts": [8, 16]})
    large = small_experiment(trace, grid={"policy": ["lru", "lfu"], "cache.experts": [8, 12, 16]})
    run_sweep(small, store=store, references=(), workers=HERE)
    run_sweep(large, store=store, references=(), workers=HERE)
    run_sweep(large, store=store, references=(), workers=HERE)
    found = events(store)
    assert len(found) == 2 * 6
    assert set(found.values()) == {1}


def test_any_number_of_processes_gives_the_same_bytes(trace: Path, tmp_path: Path) -> None:
    experiment = small_experiment(trace, grid={"policy": ["finemoe", "lru"]})
    for jobs in (1, 2):
        sweep = run_sweep(
            experiment, store=tmp_path / f"store-{jobs}", references=EVERYTHING, workers=Workers(jobs=jobs)
        )
        sweep.write(tmp_path / f"out-{jobs}")
    assert run_bytes(tmp_path / "store-1") == run_bytes(tmp_path / "store-2")
    tables = [(tmp_path / f"out-{jobs}" / "sweep.parquet").read_bytes() for jobs in (1, 2)]
    assert tables[0] == tables[1]


def test_a_broken_run_is_computed_again_to_the_same_bytes(trace: Path, swept: tuple[Sweep, Path], store: Path) -> None:
    experiment, before = small_experiment(trace, grid=FOUR), swept[0]
    shutil.copytree(swept[1], store)
    stored = run_bytes(store)
    victim = next(path for path in sorted(store.glob("runs/*/*/requests.parquet")))
    whole = victim.read_bytes()
    victim.write_bytes(whole[:100] + bytes([whole[100] ^ 4]) + whole[101:])
    assert run_sweep(experiment, store=store, references=(), workers=HERE) == before
    assert run_bytes(store) == stored
    assert len(begun_again(store)) == 1


def test_what_cannot_run_is_a_row_with_its_reason(decoded: Path, store: Path) -> None:
    experiment = small_experiment(
        decoded, grid={"policy": ["lru", "promoe", "map-ts"], "cache.share": [0.01, 0.5, 1.5], "batch_size": [1]}
    )
    frame = run_sweep(experiment, store=store, references=EVERYTHING, workers=HERE).frame
    reasons = {(row["policy"], row["cache.share"]): row["reason"] for row in frame.to_dict("records")}
    assert "must hold 2 to 32 for small on 1 GPU (top-2, one slot per GPU)" in reasons["lru", 0.01]
    assert reasons["promoe", 1.5] == "cache.share: must be above 0 and at most 1, not 1.5"
    assert frame["status"].value_counts().to_dict() == {"refused": 6, "done": 3}


@pytest.mark.parametrize(
    ("axis", "name", "said"),
    [
        ("policy", "finmoe", "unknown policy 'finmoe'; did you mean 'finemoe'?"),
        ("policy", "lru+lri", "unknown evictor 'lri'; did you mean "),
        ("policy", "finemoe,distance=3", "policy finemoe: unknown setting 'distance'"),
        ("policy", "nowhere:mine", "policy nowhere:mine: no module 'nowhere' "),
        ("policy", "tests.support.broken_policies:nobody", "module tests.support.broken_policies: unknown policy "),
        ("machine", "rtx9090", "unknown machine 'rtx9090'; known: "),
    ],
)
def test_a_name_that_does_not_exist_ends_a_sweep_before_anything_runs(
    trace: Path, store: Path, axis: str, name: str, said: str
) -> None:
    experiment = small_experiment(trace, grid={axis: ["lru" if axis == "policy" else "rtx3090", name]})
    with pytest.raises(UnknownNameError, match=f"^{re.escape(said)}"):
        run_sweep(experiment, store=store, references=(), workers=HERE)
    assert list(ResultStore.open(store).runs()) == []


FAILING = """
from policies.base import Policy, Prefetcher
from policies.evictors.recency import LeastRecentlyUsed


class Failing(Prefetcher):
    def on_request_end(self, request):
        raise ZeroDivisionError("by the test")


def failing():
    return Policy(prefetcher=Failing(), evictor=LeastRecentlyUsed())
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_fails_is_recorded_and_stops_no_other(
    trace: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "failing_policy.py").write_text(FAILING)
    experiment = small_experiment(trace, grid={"policy": ["failing_policy:failing", "lru"], "seed": [0, 1]})
    frame = run_sweep(experiment, store=store, references=(), workers=Workers(jobs=jobs)).frame
    assert frame["status"].tolist() == ["failed", "failed", "done", "done"]
    assert frame["reason"][0].startswith("policy failing_policy:failing: on_request_end")
    assert "ZeroDivisionError: by the test" in frame["reason"][0]
    assert len(list((store / "failures").glob("??/*.json"))) == 2


def test_a_policy_of_a_script_is_refused_in_a_sweep(trace: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("__main__.mine", LeastRecentlyUsed, raising=False)
    experiment = small_experiment(trace, grid={"policy": ["__main__:mine", "lru"]})
    frame = run_sweep(experiment, store=store, references=(), workers=HERE).frame
    assert frame["status"].tolist() == ["refused", "done"]
    assert frame["reason"][0] == "policy __main__:mine is defined in a script, so other processes cannot import it"


def test_learned_state_and_decoded_routing_change_no_byte(trace: Path, tmp_path: Path) -> None:
    """A store with warm artefacts and one whose artefacts cannot be kept."""
    experiment = small_experiment(trace, grid={"policy": ["finemoe", "promoe", "moe-infinity"], "seed": [0, 1]})
    run_sweep(experiment, store=tmp_path / "a", references=(), workers=HERE)
    ResultStore.open(tmp_path / "b")
    (tmp_path / "b" / "artefacts").write_text("in the way")
    run_sweep(experiment, store=tmp_path / "b", references=(), workers=HERE)
    assert run_bytes(tmp_path / "a") == run_bytes(tmp_path / "b")


def test_predictions_are_made_once_per_seed_and_shared_by_sizes_and_evictors(trace: Path, store: Path) -> None:
    grid = {"policy": ["finemoe", "finemoe+lru"], "cache.experts": [8, 16], "seed": [0, 1]}
    run_sweep(small_experiment(trace, grid=grid), store=store, references=(), workers=HERE)
    assert len(list((store / "artefacts" / "predictions").glob("??/*.artefact"))) == 2


def test_runs_that_share_predictions_are_kept_apart(trace: Path) -> None:
    """So that of two workers one does not predict what the other one just predicts."""
    grid = {"policy": ["finemoe", "finemoe+lru"], "cache.experts": [8, 16], "seed": [0, 1]}
    tasks = SweepPlan.of(small_experiment(trace, grid=grid), ()).tasks()
    assert [task.scenario.seed for task in tasks] == [0, 1] * 4


def test_batches_of_other_sizes_have_predictions_of_their_own(trace: Path, store: Path) -> None:
    experiment = small_experiment(trace, grid={"policy": ["finemoe", "moe-infinity"], "batch_size": [1, 2]})
    frame = run_sweep(experiment, store=store, references=(), workers=HERE).frame
    for row, run in zip(frame.to_dict("records"), experiment.matrix(), strict=True):
        assert run.scenario is not None
        assert row["tpot_s_mean"] == simulate(run.scenario).summary["tpot_s_mean"]


@pytest.mark.parametrize("first", [{"detail": "events"}, {"check": True}])
def test_a_run_is_never_replaced_by_one_with_less_detail(trace: Path, store: Path, first: dict[str, Any]) -> None:
    """Asked in turn for the decision log and for a checked run, the store computes twice and then has both."""
    base = Scenario(trace, policy="lru", machine="rtx3090")
    other: dict[str, Any] = {"check": True} if "detail" in first else {"detail": "events"}
    for change in (first, other, first, other):
        experiment = Experiment(scenario=replace(base, **change))
        run_sweep(experiment, store=store, references=(), workers=HERE)
    assert sum(count for (event, _), count in events(store).items() if event == "started") == 2


def test_more_room_never_costs_belady_a_hit_over_a_sweep(trace: Path, store: Path) -> None:
    sizes = list(range(2, 33, 6))
    experiment = Experiment(
        scenario=Scenario(trace, policy="belady", machine="rtx3090", cache=CacheSize(experts=2)),
        grid={"cache.experts": sizes},
    )
    frame = run_sweep(experiment, store=store, references=(), workers=HERE).frame
    rates = frame.sort_values("cache.experts")["hit_rate"].to_numpy()
    assert (np.diff(rates) >= 0).all()
    assert not math.isclose(rates[0], rates[-1])


def test_a_terminal_gets_a_bar_with_the_runs_and_the_time_left(
    trace: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is known from the start if the policies have run before."""
    grid = {"policy": ["finemoe", "lru"], "cache.experts": [8, 16]}
    run_sweep(small_experiment(trace, grid=grid), store=store, references=(), workers=HERE)
    screen, bars = terminal(monkeypatch), []
    drawn_as_usual = tqdm.tqdm

    def kept(**named: Any) -> Any:
        bars.extend([drawn_as_usual(**named)] if named.get("desc") == "sizes" else [])
        return bars[-1] if bars else drawn_as_usual(**named)

    monkeypatch.setattr(tqdm, "tqdm", kept)
    run_sweep(small_experiment(trace), store=store, references=(), workers=HERE, name="sizes")
    drawn = [state for state in screen.states() if "sizes" in state]  # the plan has a bar, too
    assert drawn[0].startswith("sizes:   0%|")
    assert re.search(r" 0/4 runs \[00:00, \d+ s left\]", drawn[1])
    assert bars[0].n == 4
    assert bars[0].postfix == "0 s left"
    assert screen.states()[-1] == ""  # they have vanished
