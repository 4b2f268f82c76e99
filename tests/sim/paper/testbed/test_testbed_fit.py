"""Which points are consistent with the paper's numbers: tables with known answers."""

import math

import pandas as pd
import pytest

from sim.paper.testbed.testbed_fit import (
    TOLERANCES,
    best_points,
    cannot_hold_together,
    changes,
    feasible_shares,
    met,
    points,
    spread,
)
from sim.paper.testbed.testbed_numbers import BY_KEY, NUMBERS, groups
from tests.support.testbed_tables import SMALL, table_from

TRUTH = {"link_gb_per_s": 16.0, "layer_ms": 4.0, "loading": "serial", "cache_gb": 12.0}
AT_6_GB = {number.baseline: number.change for number in NUMBERS if number.figure == "12"}
AT_TRUTH = {(number.quantity, number.baseline): number.change for number in NUMBERS if number.figure == "10"}


def the_paper_at_one_point(testbed, cache_gb, model, system, form):
    """On one machine all numbers are the paper's (figure 12's at 6 GB, figure 10's at 12 GB); elsewhere all are 0."""
    here = (testbed.link_gb_per_s, testbed.layer_ms, testbed.loading) == (16.0, 4.0, "serial")
    there = here and system != "FineMoE" and form in ("", "paper", "whole layers")
    ttft = AT_TRUTH["ttft", system] if there and cache_gb == 12 else 0
    tpot = (
        (AT_6_GB if cache_gb == 6 else {key[1]: AT_TRUTH["tpot", key[1]] for key in AT_TRUTH})[system] if there else 0
    )
    hit = AT_TRUTH.get(("hit", system), 0) if there and cache_gb == 12 else 0
    return {
        "ttft_ms": 100 / (1 + ttft),
        "tpot_ms": 10 / (1 + tpot),
        "hit_rate": 0.5 / (1 + hit),
        "hit_or_late_rate": 0.5,
    }


@pytest.fixture(scope="module")
def found():
    return points(table_from(the_paper_at_one_point))


def test_the_point_where_all_numbers_hold_is_found(found):
    best = best_points(found, 0.05)
    first = dict(zip(found.index.names, best.index[0], strict=True))
    forms = {"MoE-Infinity": "paper", "Mixtral-Offloading": "paper", "DeepSpeed": "whole layers"}
    assert first == {**TRUTH, **forms, "a hit": "on its GPU"}
    assert best["met"].iloc[0] == len(NUMBERS) == 15
    assert best["deviation"].iloc[0] == pytest.approx(0, abs=1e-12)
    assert best["met"].iloc[1] < 15
    assert cannot_hold_together(met(found, 0.05)) == []


def test_every_machine_cache_and_reading_is_a_point(found):
    assert len(found) == len(SMALL.testbeds()) * len(SMALL.cache_gb) * 2**4
    assert not found.isna().any().any()


def test_figure_12_is_read_at_6_gb_whatever_the_cache_of_figure_10(found):
    for key in (number.key for number in NUMBERS if number.figure == "12"):
        wide = found[key].unstack("cache_gb")
        pd.testing.assert_series_equal(wide[6.0], wide[12.0], check_names=False)


def test_a_tolerance_counts_percentage_points_on_both_sides(found):
    meets = {tolerance: met(found, tolerance).sum().sum() for tolerance in TOLERANCES}
    assert meets[0.05] < meets[0.15]
    first = found.iloc[[0]].copy()
    first["10-ttft-deepspeed"] = -0.74 + 0.05
    assert met(first, 0.05)["10-ttft-deepspeed"].all()
    first["10-ttft-deepspeed"] = -0.74 - 0.051
    assert not met(first, 0.05)["10-ttft-deepspeed"].any()


def test_a_change_is_the_mean_of_the_models_ratios():
    def one_slow_model(testbed, cache_gb, model, system, form):
        times = {"Mixtral": 4.0, "Qwen": 2.0, "Phi": 1.25}
        own = 1.0 if system == "FineMoE" else times[model]
        return {"ttft_ms": own, "tpot_ms": own, "hit_rate": 1 / own, "hit_or_late_rate": 1 / own}

    table = table_from(one_slow_model)
    assert points(table)["10-tpot-promoe"].to_numpy() == pytest.approx((-0.75 - 0.5 - 0.2) / 3)
    assert spread(table).at["10-tpot-promoe", "spread"] == pytest.approx(0.55)
    assert changes(table)["10-hit-promoe", "", "on its GPU"].max() == pytest.approx(3)


def test_a_number_is_missing_if_one_model_has_no_value():
    table = table_from(the_paper_at_one_point)
    lost = (table["model"] == "Qwen") & (table["system"] == "ProMoE") & (table["cache_gb"] == 12)
    table.loc[lost, "tpot_ms"] = math.nan
    found = points(table)
    assert found["10-tpot-promoe"].xs(12.0, level="cache_gb").isna().all()
    assert found["10-tpot-promoe"].xs(6.0, level="cache_gb").notna().all()
    assert not met(found, 1.0)["10-tpot-promoe"].xs(12.0, level="cache_gb").any()
    without = points(table[~lost].reset_index(drop=True))  # a run that was refused
    pd.testing.assert_series_equal(without["10-tpot-promoe"], found["10-tpot-promoe"])


def test_the_smallest_sets_that_no_point_meets_are_found():
    meets = pd.DataFrame(
        {  # of four points
            "never": [0, 0, 0, 0],
            "a": [1, 1, 0, 0],
            "b": [0, 0, 1, 1],
            "c": [1, 0, 1, 0],
            "d": [0, 1, 1, 0],
        }
    ).astype(bool)
    assert cannot_hold_together(meets) == [("never",), ("a", "b"), ("a", "c", "d")]
    assert cannot_hold_together(meets, most=2) == [("never",), ("a", "b")]


def test_shares_of_the_feasible_region_are_counted_by_axis(found):
    shares = feasible_shares(met(found, 0.05))
    at = shares["10-ttft-deepspeed"]
    assert at["all points", ""] == pytest.approx(8 / len(found))  # any form of the others, any hit
    assert at["loading", "parallel"] == 0
    assert at["loading", "serial"] == pytest.approx(2 * at["all points", ""])


def test_every_number_is_in_one_group_and_in_all():
    every = groups()
    assert every.pop("all") == list(BY_KEY)
    assert [key for keys in every.values() for key in keys] == list(BY_KEY)
