"""What a run is measured against."""

from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import FieldError
from policies.cache.placement import least_slots, split_slots
from policies.registry import policy_names
from sim.inputs import resolve
from sim.scenario import CacheSize, Scenario
from sim.simulation import simulate
from sim.sweeps.reference_runs import know_all, own_cache, reference_runs, references_named, resident


@pytest.fixture
def scenario(trace: Path) -> Scenario:
    return Scenario(trace, policy="lru", machine="rtx3090x6", cache=CacheSize(experts=12), label="mine")


def regret(scenario: Scenario, policy: str) -> dict[str, str]:
    asked = Scenario(scenario.trace, policy=policy)
    return {name: each.policy for name, (each,) in reference_runs(asked, resolve(asked), ["regret"]).items()}


@pytest.mark.parametrize(
    ("policy", "perfected"),
    [
        ("lru", {"belady": "lru+belady", "perfect_prefetch": "perfect-prefetch+lru"}),
        (
            "finemoe,prefetch_distance=2+lhd",
            {
                "belady": "finemoe,prefetch_distance=2+belady",
                "perfect_prefetch": "perfect-prefetch,prefetch_distance=2+lhd",
            },
        ),
        ("finemoe,reset_on_evict=true", {"belady": "finemoe,reset_on_evict=true+belady"}),  # its evictor has no name
        ("clairvoyant", {}),
        ("belady", {}),
        ("no-offload", {}),
    ],
)
def test_a_policy_is_perfected_in_its_prediction_and_in_its_eviction(
    scenario: Scenario, policy: str, perfected: dict[str, str]
) -> None:
    assert regret(scenario, policy) == perfected


def test_every_perfected_policy_can_run(scenario: Scenario) -> None:
    for policy in policy_names():
        asked = Scenario(scenario.trace, policy=policy, machine="rtx3090", requests=1)
        inputs = resolve(asked)
        for (each,) in reference_runs(asked, inputs, ["regret"]).values():
            assert simulate(each, inputs).summary["tpot_s_mean"] > 0


def test_perfect_parts_are_no_worse_than_those_of_lru(scenario: Scenario) -> None:
    """One GPU, so that no link idles: on-demand eviction by Belady misses least, which nothing on demand can beat."""
    asked = Scenario(scenario.trace, policy="lru", machine="rtx3090")
    inputs = resolve(asked)
    own = simulate(asked, inputs).summary
    for runs in reference_runs(asked, inputs, ["regret", "best-known"]).values():
        assert all(simulate(each, inputs).summary["tpot_s_mean"] <= own["tpot_s_mean"] for each in runs)


def test_perfect_prefetch_looks_no_further_than_a_model_has_layers() -> None:
    assert know_all(32)[1:] == [f"perfect-prefetch,prefetch_distance={each}+belady" for each in (3, 6, 12)]
    assert know_all(8)[-1] == "perfect-prefetch,prefetch_distance=8+belady"
    assert know_all(2) == ["clairvoyant", "perfect-prefetch,prefetch_distance=2+belady"]


@pytest.mark.parametrize(
    ("policy", "own"),
    [
        ("lru", None),
        ("belady", None),
        ("no-offload", None),
        ("promoe", ("lru", True)),
        ("moe-infinity,prefetch_distance=2", ("lfu", True)),
        ("perfect-prefetch+belady", ("belady", True)),
        ("finemoe+lhd,classes=4", ("lru+lhd,classes=4", True)),
        ("finemoe,prefetch_distance=2", ("finemoe,prefetch_distance=2", False)),  # its evictor reads beliefs
        ("promoe+finemoe", ("promoe+finemoe", False)),
        ("deepspeed", ("deepspeed", False)),  # its evictor has no name
        ("clairvoyant", ("clairvoyant", False)),
    ],
)
def test_the_own_cache_of_a_policy_is_its_evictor_on_demand(
    scenario: Scenario, policy: str, own: tuple[str, bool] | None
) -> None:
    found = own_cache(replace(scenario, policy=policy))
    assert (found and (found.policy, found.prefetch)) == own
    assert own_cache(replace(scenario, policy=policy, prefetch=False)) is None


def test_every_own_cache_is_the_policy_without_its_prefetches(scenario: Scenario) -> None:
    """Where the run is that of another policy too: it waits for nothing that was planned, and predictions are free."""
    inputs = resolve(scenario)
    shared = 0
    for policy in set(policy_names()) - {"no-offload"}:
        asked = replace(scenario, policy=policy, check=True)
        if (own := own_cache(asked)) is None:
            continue
        without = simulate(replace(asked, prefetch=False), inputs)
        assert without.summary["prefetched_copies"] == 0
        assert without.summary["copies"] == without.summary["misses"] > 0
        if own.prefetch:
            shared += 1
            found = simulate(own, inputs)
            assert found.requests.equals(without.requests), policy
            assert found.iterations.equals(without.iterations), policy  # type: ignore[union-attr]
    assert shared >= 3


def test_without_prefetch_an_evictor_still_gets_beliefs(scenario: Scenario) -> None:
    inputs = resolve(scenario)
    believing = simulate(replace(scenario, policy="finemoe", prefetch=False), inputs)
    unbelieving = simulate(replace(scenario, policy="lru+finemoe"), inputs)
    assert believing.summary["misses"] != unbelieving.summary["misses"]
    assert believing.summary["note"].startswith("plans are not carried out: experts are copied on demand only; ")


def test_no_offload_gives_the_same_figures_at_every_size(scenario: Scenario) -> None:
    """So one run serves all sizes."""
    inputs = resolve(scenario)
    small = simulate(resident(scenario, inputs), inputs)
    large = simulate(Scenario(scenario.trace, policy="no-offload", cache=CacheSize(share=1.0)))
    assert small.summary == large.summary
    assert small.iterations is not None
    assert large.iterations is not None
    assert small.iterations.equals(large.iterations)


def test_the_smallest_cache_is_possible(scenario: Scenario) -> None:
    model = resolve(scenario).model
    for gpus in (1, 2, 6):
        least = least_slots(model, gpus)
        assert sum(split_slots(model, least, gpus)) == least


def test_references_are_named_in_text() -> None:
    assert references_named("regret, no-offload") == ("no-offload", "regret")
    assert references_named("none") == ()
    with pytest.raises(FieldError, match=r"^references: none cannot be combined with other references"):
        references_named("none,regret")
    with pytest.raises(FieldError, match="unknown reference 'best-knwon'; did you mean 'best-known'"):
        references_named("no-offload,best-knwon")
