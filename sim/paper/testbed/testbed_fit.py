"""Find the testbeds that are consistent with the paper's numbers, from simulated runs.

A *point* is a machine, a cache for figure 10, and a reading of the paper's words. It meets a number if the mean over
the models lies within a tolerance of it. Nothing is fitted: every point is evaluated, and nothing else uses the result.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from sim.paper.testbed.testbed_grid import ON_ITS_GPU, OR_IN_FLIGHT, READINGS
from sim.paper.testbed.testbed_numbers import BY_KEY, FIGURE_12_GB, NUMBERS, PublishedNumber
from sim.paper.testbed.testbed_runs import FINEMOE_ALONE, MACHINE, TRACE

POINT = [*MACHINE, "cache_gb", *READINGS]
TOLERANCES = (0.05, 0.10, 0.15)
PRODUCT = "product_mb"
MOST_TOGETHER = 3  # largest set that is searched for numbers that no point meets together

_PLACE = [*MACHINE, "cache_gb"]
_TIMES = {"ttft": "ttft_ms", "tpot": "tpot_ms"}
_HITS = {ON_ITS_GPU: "hit_rate", OR_IN_FLIGHT: "hit_or_late_rate"}


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """FineMoE's change against each baseline, for each machine, cache and trace: `[places · traces, comparisons]`.

    The index is machine, cache, model and prompts. The columns are (number, form, hit); `hit` is what counts as a hit,
    and "" for times. A change is a share of the baseline's value.
    """
    values = table.set_index([*_PLACE, *TRACE, "system", "form"])
    wide = {name: values[name].unstack(["system", "form"]) for name in (*_TIMES.values(), *_HITS.values())}
    found = {}
    for number, form, hit in _comparisons():
        figures = wide[_HITS[hit] if number.quantity == "hit" else _TIMES[number.quantity]]
        subject, baseline = (FINEMOE_ALONE.name, FINEMOE_ALONE.form), (number.baseline, form)
        if baseline in figures:
            found[number.key, form, hit] = figures[subject] / figures[baseline].replace(0, np.nan) - 1
    return pd.DataFrame(found).rename_axis(columns=["number", "form", "hit"])


def points(table: pd.DataFrame) -> pd.DataFrame:
    """The mean change over the traces for each point and number: `[points, numbers]` with the index `POINT`.

    Figure 12's numbers are always those at 6 GB. NaN if a trace has no value.
    """
    by_trace = changes(table)
    grouped = by_trace.groupby(level=_PLACE, sort=False)
    traces = len(by_trace.reset_index()[TRACE].drop_duplicates())
    means = grouped.mean().where(grouped.count() == traces)
    values = {}
    for number, form, hit in _comparisons():
        if (number.key, form, hit) in means:
            found = means[number.key, form, hit]
            values[number.key, form, hit] = _at_6_gb(found) if number.figure == "12" else found
    missing = pd.Series(np.nan, means.index)
    frames = {}
    for reading in product(*READINGS.values()):
        read = dict(zip(READINGS, reading, strict=True))
        columns = {number.key: values.get((number.key, *_read(number, read)), missing) for number in NUMBERS}
        frames[reading] = pd.DataFrame(columns)
    return pd.concat(frames, names=list(READINGS)).reorder_levels(POINT)


def spread(table: pd.DataFrame) -> pd.DataFrame:
    """The spread of the models: the largest minus the smallest change, as a median over machines and caches.

    A row per number, for the baseline's form with the widest spread.
    """
    grouped = changes(table).groupby(level=_PLACE, sort=False)
    apart = (grouped.max() - grouped.min()).median()
    return apart.groupby(level="number", sort=False).max().rename("spread").to_frame()


def met(found: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Whether each point meets each number within the tolerance: `[points, numbers]`."""
    published = pd.Series({number.key: number.change for number in NUMBERS})
    return (found - published[found.columns]).abs() <= tolerance + 1e-12


def feasible_shares(meets: pd.DataFrame) -> pd.DataFrame:
    """The feasible region of each number: for each value of each axis, the share of its points that meet the number.

    The rows are (axis, value) and ("all points", ""); the columns are the numbers. The additional axis `PRODUCT` has
    ranges of rate times time per layer: the MB that a link can copy while the framework works on a layer.
    """
    rows: dict[tuple[str, Any], pd.Series[float]] = {("all points", ""): meets.mean()}
    axes = {axis: meets.index.get_level_values(axis) for axis in POINT} | {PRODUCT: _product_ranges(meets)}
    for axis, values in axes.items():
        for value in dict.fromkeys(values):
            rows[axis, str(value) if axis == PRODUCT else value] = meets[values == value].mean()
    return pd.DataFrame(rows).T.rename_axis(["axis", "value"])


def best_points(found: pd.DataFrame, tolerance: float, keys: Sequence[str] = tuple(BY_KEY)) -> pd.DataFrame:
    """All points, ranked by how many of these numbers they meet, then by how close they are.

    The columns are `met` (the count) and `deviation`, the mean distance from the paper's numbers, as a share.
    """
    published = pd.Series({number.key: number.change for number in NUMBERS})
    chosen = found[list(keys)]
    deviation = (chosen - published[chosen.columns]).abs().mean(axis=1)
    ranked = pd.DataFrame({"met": met(chosen, tolerance).sum(axis=1), "deviation": deviation})
    return ranked.sort_values(["met", "deviation"], ascending=[False, True], kind="stable")


def same_products(found: pd.DataFrame) -> pd.DataFrame:
    """The largest minus the smallest change of each number among points with equal rate times time per layer.

    Compares only points that agree in everything else. A row per product (MB that a link copies in a layer's time) and
    remaining settings; empty if no product occurs twice.
    """
    together = found.reset_index()
    together[PRODUCT] = (together["link_gb_per_s"] * together["layer_ms"]).round(6)
    others = [name for name in POINT if name not in ("link_gb_per_s", "layer_ms")]
    grouped = together[together[PRODUCT] > 0].groupby([PRODUCT, *others], sort=False)
    apart = grouped[list(found.columns)].max() - grouped[list(found.columns)].min()
    return apart[grouped["link_gb_per_s"].nunique() > 1]


def cannot_hold_together(meets: pd.DataFrame, most: int = MOST_TOGETHER) -> list[tuple[str, ...]]:
    """The minimal sets of at most `most` numbers that no point meets together, smaller sets first.

    Some point meets every proper subset of such a set. A number that no point meets is a set of its own.
    """
    columns = {key: meets[key].to_numpy() for key in meets.columns}
    found: list[tuple[str, ...]] = []
    for size in range(1, most + 1):
        for keys in combinations(columns, size):
            if any(set(smaller) <= set(keys) for smaller in found):
                continue
            if not np.logical_and.reduce([columns[key] for key in keys]).any():
                found.append(keys)
    return found


def _comparisons() -> Iterator[tuple[PublishedNumber, str, str]]:
    """Each number with each form of its baseline and each definition of a hit."""
    for number in NUMBERS:
        hits: Iterable[str] = READINGS["a hit"] if number.quantity == "hit" else ("",)
        for form, hit in product(READINGS.get(number.baseline, ("",)), hits):
            yield number, form, hit


def _read(number: PublishedNumber, reading: dict[str, str]) -> tuple[str, str]:
    """The form of the number's baseline, and the definition of a hit, in a reading."""
    return reading.get(number.baseline, ""), reading["a hit"] if number.quantity == "hit" else ""


def _product_ranges(meets: pd.DataFrame) -> Any:
    """For each point, the range of its rate times time per layer."""
    products = meets.index.get_level_values("link_gb_per_s") * meets.index.get_level_values("layer_ms")
    ends = [-1.0, 0.0, 32.0, 64.0, 128.0, np.inf]
    return np.asarray(pd.cut(products, ends, labels=["0", "to 32", "to 64", "to 128", "beyond 128"]))


def _at_6_gb(values: "pd.Series[float]") -> "pd.Series[float]":
    """Replace the value at every cache by that at 6 GB on the same machine."""
    wide = values.unstack("cache_gb")
    there = wide[FIGURE_12_GB].to_dict() if FIGURE_12_GB in wide else {}
    return pd.Series([there.get(place[:-1], np.nan) for place in values.index], values.index, dtype=float)
