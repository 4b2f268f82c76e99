"""Best policies, ties, inversions and regret, on tables whose answers are known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sim.sweeps.sweep import Sweep
from sim.sweeps.sweep_statistics import SweepStatistics
from tests.support.sweep_helpers import hand_made

AXES = ("policy", "cache.share", "seed")
QUARTER, HALF = (0.25,), (0.5,)


def rows(policy: str, tpot_s: Sequence[float], hit_rate: Sequence[float] = (), share: float = 0.25, **more: Any) -> Any:
    """A run per seed."""
    rates = hit_rate or [0.5] * len(tpot_s)
    return [
        {"policy": policy, "cache.share": share, "seed": seed, "tpot_s_mean": tpot, "hit_rate": rate, **more}
        for seed, (tpot, rate) in enumerate(zip(tpot_s, rates, strict=True))
    ]


def statistics_of(sweep: Sweep) -> SweepStatistics:
    return SweepStatistics(sweep.frame, sweep.axes, np.random.default_rng(0))


def statistics(*parts: Any) -> SweepStatistics:
    return statistics_of(hand_made([row for part in parts for row in part], *AXES))


def test_the_best_has_the_lowest_mean_of_its_setting() -> None:
    found = statistics(
        rows("lru", [3.0, 5.0]),
        rows("lfu", [2.0, 3.0]),
        rows("lru", [1.0, 2.0], share=0.5),
        rows("lfu", [3.0, 4.0], share=0.5),
    )
    assert found.settings == [QUARTER, HALF]
    assert [found.standing(setting).best for setting in found.settings] == ["lfu", "lru"]
    assert found.standing(QUARTER).figure.mean == 2.5
    assert found.standing(QUARTER, "hit_rate").best == "lru"  # the first of equals


def test_the_best_of_a_rate_is_the_highest() -> None:
    found = statistics(rows("lru", [1.0], [0.4]), rows("lfu", [1.0], [0.6]))
    assert found.standing(QUARTER, "hit_rate").best == "lfu"


def test_a_tie_is_decided_seed_by_seed() -> None:
    """Both overlap with the best as much; one is always slower, the other one not."""
    found = statistics(rows("lru", [1.0, 5.0, 9.0]), rows("lfu", [1.1, 5.1, 9.1]), rows("promoe", [5.1, 1.1, 9.1]))
    standing = found.standing(QUARTER)
    assert (standing.best, standing.ties) == ("lru", ("promoe",))


def test_with_one_seed_only_equal_values_tie() -> None:
    found = statistics(rows("lru", [1.0]), rows("lfu", [1.0]), rows("promoe", [1.0 + 1e-12]))
    assert found.standing(QUARTER).ties == ("lfu",)


def test_a_difference_is_taken_over_the_seeds_that_both_have() -> None:
    found = statistics(rows("lru", [1.0, 2.0, 30.0]), rows("lfu", [2.0, 4.0]))
    difference = found.difference(QUARTER, "lfu", "lru")
    assert difference is not None
    assert (difference.mean, difference.low, difference.high, difference.seeds) == pytest.approx((1.5, 1.0, 2.0, 2))


def test_oracles_and_preloaded_policies_are_no_candidates() -> None:
    found = statistics(
        rows("lru", [4.0]),
        rows("belady", [3.0]),
        rows("lfu+belady", [2.5]),
        rows("clairvoyant", [2.0]),
        rows("no-offload", [1.0], preloaded=True),
    )
    assert found.candidates == ["lru"]
    assert found.prophets == {"belady", "lfu+belady", "clairvoyant"}
    assert found.standing(QUARTER).best == "lru"
    assert statistics(rows("belady", [3.0])).standing(QUARTER) is None


def test_an_outside_policy_that_cannot_be_imported_is_a_candidate() -> None:
    assert statistics(rows("nowhere_to_be_found:mine", [1.0])).candidates == ["nowhere_to_be_found:mine"]


def test_an_inversion_hits_more_and_is_slower() -> None:
    found = statistics(rows("lru", [2.0], [0.6]), rows("lfu", [1.0], [0.5]), rows("promoe", [3.0], [0.4]))
    (inversion,) = found.inversions()
    assert (inversion.hits_more, inversion.faster, inversion.setting) == ("lru", "lfu", QUARTER)
    assert (inversion.hit_rate.mean, inversion.tpot_s.mean) == pytest.approx((0.1, 1.0))


@pytest.mark.parametrize(
    ("tpot_s", "hit_rate", "inverted"),
    [
        ([2.0, 4.0], [0.6, 0.7], True),
        ([2.0, 2.9], [0.6, 0.7], False),  # slower by 1.0 and by −0.1
        ([2.0, 4.0], [0.6, 0.45], False),  # hits more by 0.1 and by −0.05
        ([2.0, 3.0], [0.6, 0.7], False),  # slower by 1.0 and by 0.0
    ],
)
def test_the_intervals_of_both_differences_of_an_inversion_exclude_0(
    tpot_s: list[float], hit_rate: list[float], inverted: bool
) -> None:
    found = statistics(rows("lru", tpot_s, hit_rate), rows("lfu", [1.0, 3.0], [0.5, 0.5]))
    assert [(each.hits_more, each.faster) for each in found.inversions()] == [("lru", "lfu")] * inverted


def test_preloaded_policies_have_no_inversions() -> None:
    assert not list(statistics(rows("no-offload", [2.0], [1.0], preloaded=True), rows("lru", [1.0])).inversions())


def test_the_distance_is_the_mean_of_ratios() -> None:
    pairs = rows("lru", [2.0, 9.0])
    pairs[0]["best_known_tpot_s_mean"], pairs[1]["best_known_tpot_s_mean"] = 1.0, 3.0
    found = statistics(pairs).over(QUARTER, "lru", "best_known_tpot_s_mean")
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((2.5, 2.0, 3.0))


def test_regret_is_what_each_part_and_both_would_save() -> None:
    references = {"perfect_prefetch_tpot_s_mean": 4.0, "belady_tpot_s_mean": 9.0, "best_known_tpot_s_mean": 2.0}
    regret = statistics(rows("lru", [10.0, 12.0], **references)).regret(QUARTER, "lru")
    saved = [each.mean for each in (regret.prediction_s, regret.eviction_s, regret.both_s) if each]
    assert saved == pytest.approx([7.0, 2.0, 9.0])


def test_without_reference_runs_there_is_no_regret() -> None:
    regret = statistics(rows("lru", [10.0], belady_tpot_s_mean=None)).regret(QUARTER, "lru")
    assert (regret.prediction_s, regret.eviction_s, regret.both_s) == (None, None, None)


def test_unfinished_runs_are_not_counted() -> None:
    failed = rows("lru", [0.0, 0.0], status="failed", reason="broke")
    found = statistics(failed, rows("lfu", [1.0, 2.0]))
    assert (found.policies, found.seeds(QUARTER, "lru")) == (["lfu"], 0)
    assert found.figure(QUARTER, "lru") is None


def test_a_setting_without_a_value_of_an_axis_is_a_setting() -> None:
    table = [
        {"policy": "lru", "cache.gb": gb, "tpot_s_mean": tpot, "hit_rate": 0.5}
        for gb, tpot in ((None, 1.0), (2.0, 2.0))
    ]
    found = statistics_of(hand_made(table, "cache.gb"))
    assert found.settings == [(None,), (2.0,)]
    assert [found.figure(setting, "lru").mean for setting in found.settings] == [1.0, 2.0]


def test_a_duplicate_run_counts_once() -> None:
    found = statistics(rows("lru", [1.0, 2.0]), rows("lru", [5.0]))
    assert found.figure(QUARTER, "lru").mean == 1.5
