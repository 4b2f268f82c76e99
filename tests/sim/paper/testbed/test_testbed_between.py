"""Between simulated points: what is straight in 1 / rate and time per layer is met exactly."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sim.paper.testbed.testbed_between import checks_of_rate, left_out, refined
from sim.paper.testbed.testbed_runs import FIGURES, LABELS, SYSTEMS
from tests.support.testbed_tables import SMALL, table_from


def copies_and_framework(testbed, cache_gb, model, system, form):
    """32 layers that copy 0.7 GB each, and wait for the framework."""
    layers_ms = 700 / testbed.link_gb_per_s + testbed.layer_ms
    return {"ttft_ms": 64 * layers_ms, "tpot_ms": 32 * layers_ms, "hit_rate": 0.5, "hit_or_late_rate": 0.6}


def test_times_between_the_points_are_those_of_the_formula():
    fine = refined(table_from(copies_and_framework), steps=4)
    expected = 32 * (700 / fine["link_gb_per_s"] + fine["layer_ms"])
    np.testing.assert_allclose(fine["tpot_ms"], expected, rtol=1e-12)
    assert (fine["hit_rate"] == 0.5).all()
    assert sorted(fine["layer_ms"].unique()) == [0, 1, 2, 3, 4]
    assert len(fine["link_gb_per_s"].unique()) == 9
    assert list(fine.columns) == [*LABELS, *FIGURES]


def test_simulated_points_stay_as_they_are():
    table = table_from(lambda testbed, *_: dict.fromkeys(FIGURES, testbed.link_gb_per_s**2))
    together = refined(table).merge(table, on=LABELS, suffixes=("", "_simulated"))
    assert len(together) == len(table)
    np.testing.assert_allclose(together["tpot_ms"], together["tpot_ms_simulated"], rtol=1e-12)


def test_points_left_out_show_the_error_of_interpolation():
    exact = left_out(table_from(copies_and_framework))
    assert set(exact["link_gb_per_s"]) == {16.0}
    np.testing.assert_allclose(exact["tpot_ms_interpolated"], exact["tpot_ms"], rtol=1e-12)
    bent = left_out(table_from(lambda testbed, *_: dict.fromkeys(FIGURES, 1 / testbed.link_gb_per_s**2)))
    assert bent["tpot_ms_interpolated"].to_numpy() == pytest.approx((2 / 32**2 + 1 / 8**2) / 3)


def test_a_missing_point_leaves_gaps_and_not_zeros():
    table = table_from(copies_and_framework)
    point = {"link_gb_per_s": 16.0, "layer_ms": 4.0, **table.iloc[0][[*LABELS[2:]]]}
    missing = (table[[*point]] == pd.Series(point)).all(axis=1)
    assert missing.sum() == 1
    whole, gaps = refined(table), refined(table[~missing])
    there = (gaps[[*point]] == pd.Series(point)).all(axis=1)
    assert there.sum() == 1
    assert gaps.loc[there, FIGURES].isna().all(axis=None)
    pd.testing.assert_frame_equal(gaps[LABELS], whole[LABELS])
    known = gaps[FIGURES].notna()
    pd.testing.assert_frame_equal(gaps[FIGURES], whole[FIGURES].where(known))
    assert known.all(axis=1)[(gaps[LABELS[2:]] != table.iloc[0][LABELS[2:]]).any(axis=1)].all()


def test_a_point_that_was_simulated_twice_is_an_error():
    table = table_from(copies_and_framework)
    with pytest.raises(ValueError, match="two rows"):
        refined(pd.concat([table, table.iloc[7:8]]))


CHECKED = replace(SMALL, check_link_gb_per_s=(12.8,))


def test_checks_are_not_points_of_the_grid():
    assert {testbed.layer_ms for testbed in CHECKED.checks()} == {0.0, 4.0}
    table = table_from(copies_and_framework, CHECKED)
    assert len(table) > len(table_from(copies_and_framework))
    assert refined(table).equals(refined(table_from(copies_and_framework)))
    assert left_out(table).equals(left_out(table_from(copies_and_framework)))


def test_checks_are_compared_with_the_interpolated_grid():
    exact = checks_of_rate(table_from(copies_and_framework, CHECKED))
    assert len(exact) == 2 * 2 * 3 * len(SYSTEMS)
    assert (exact["cache_gb"] == 6).all()
    np.testing.assert_allclose(exact["tpot_ms_interpolated"], exact["tpot_ms"], rtol=1e-12)
    bent = checks_of_rate(table_from(lambda testbed, *_: dict.fromkeys(FIGURES, 1 / testbed.link_gb_per_s**2), CHECKED))
    share = (1 / 8 - 1 / 12.8) / (1 / 8 - 1 / 16)
    assert bent["tpot_ms_interpolated"].to_numpy() == pytest.approx((1 - share) / 8**2 + share / 16**2)
    assert checks_of_rate(table_from(copies_and_framework)).empty


def test_a_grid_with_only_edges_checks_nothing():
    table = table_from(copies_and_framework)
    edges = table[table["link_gb_per_s"] != 16]
    assert left_out(edges).empty
    assert SMALL.layer_ms == (0.0, 4.0)
