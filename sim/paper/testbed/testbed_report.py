"""The report on the implied testbed in Markdown. Every number in it is computed from the table of runs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from common.markdown_prose import item, paragraph
from common.tables import markdown_table, percent, quantity
from sim.paper.figures.figure_10 import TPOT
from sim.paper.testbed.testbed_between import LAYER, LINK, checks_of_rate, left_out, refined
from sim.paper.testbed.testbed_fit import (
    POINT,
    PRODUCT,
    TOLERANCES,
    best_points,
    cannot_hold_together,
    changes,
    feasible_shares,
    met,
    points,
    same_products,
    spread,
)
from sim.paper.testbed.testbed_grid import READINGS
from sim.paper.testbed.testbed_numbers import BY_KEY, FIGURE_12_GB, NUMBERS, groups
from sim.paper.testbed.testbed_runs import CHECK, FIGURES, MACHINE, of_grid
from sim.paper.testbed.testbed_words import (
    joined,
    named,
    place_in_words,
    points_text,
    region_in_words,
    short,
    value_text,
)

REGION_TOLERANCE = 0.10
_SETS_SHOWN = 30  # per tolerance
_AXES = {
    LINK: "link [GB/s]",
    LAYER: "time per layer [ms]",
    PRODUCT: "rate × time per layer [MB]",
    "loading": "loading",
    "cache_gb": "cache of fig. 10 [GB]",
    **{name: name for name in READINGS},
}


def implied_testbed_document(table: pd.DataFrame, provenance: str) -> str:
    """The report on a table of `testbed_runs.table_of`; `provenance` describes its routing."""
    found = points(refined(table))
    found = found.loc[:, found.notna().any()]
    parts = [
        "# The testbed that the paper's numbers imply",
        *_introduction(table, found, provenance),
        "![Numbers met over rate and time per layer](figures/testbed.png)",
        "## Each number alone",
        *_each_number(table, found),
        "## Where each number is met",
        *_regions(found),
        "## How many are met together",
        *_together(found),
        "## What cannot hold together",
        *_contradictions(table, found),
        "## How far this carries",
        *_limits(table, found),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(table: pd.DataFrame, found: pd.DataFrame, provenance: str) -> Iterator[str]:
    yield paragraph(f"**{provenance}** The whole file is written by `finemoe sim paper`: do not edit it.")
    yield paragraph(
        "The paper states the machines of its testbed. It does not state the rate that the links reach, the CPU time "
        "of the serving framework or the cache of figure 10, and it leaves details open of what its baselines do and "
        "what counts as a hit. Here all of these vary. Every combination, a *point*, is compared with "
        f"{len(found.columns)} numbers of figures 10 and 12: FineMoE's reductions of TTFT and TPOT and its gains in "
        "hit rate, as shares of the baseline's value. A point meets a number if the mean over the models lies within a "
        f"tolerance of it. The tolerances are {joined(f'{tolerance * 100:.0f}' for tolerance in TOLERANCES)} "
        "percentage points. **Nothing is fitted: no other figure or setting of this project depends on the results.**"
    )
    grid, checks = of_grid(table), int(table[CHECK].sum())
    rows = [
        ["rate of each of the six links [GB/s]", _listed(grid[LINK]), "states 32"],
        ["CPU time of the framework per layer [ms]", _listed(grid[LAYER]), "says nothing"],
        ["loading of experts that a layer waits for", joined(grid["loading"].unique(), "or"), "says nothing"],
        ["cache of figure 10 [GB]", _listed(grid["cache_gb"]), f"says nothing; figure 12 has {FIGURE_12_GB:g} GB"],
        ["MoE-Infinity", joined(READINGS["MoE-Infinity"], "or"), "describes the first"],
        ["Mixtral-Offloading", joined(READINGS["Mixtral-Offloading"], "or"), "describes the first"],
        ["DeepSpeed copies", joined(READINGS["DeepSpeed"], "or"), "describes the first"],
        ["a hit is", joined(READINGS["a hit"], "or"), "has only hits and misses"],
    ]
    yield markdown_table(rows, ["what varies", "values", "the paper"], texts=3)
    yield paragraph(
        "Experts that a layer waits for come over all links at once, or one after the other, as in the authors' demo. "
        "The forms of MoE-Infinity and Mixtral-Offloading are described in docs/systems.md. A DeepSpeed that copies "
        "only activated experts (`lru`) differs from the paper's description; it is tried because whole layers may be "
        "too slow for the numbers. An expert in flight counts as a hit in two of the demo's three counters. Everything "
        f"else is as in `paper-rtx3090x6`. The {len(table):,} runs are in [figures/testbed.csv](figures/testbed.csv). "
        "Times and hit rates are interpolated between rates and between times per layer, which makes "
        f"{len(found):,} points."
        + (f" {checks:,} of the runs are not points; they measure the error of interpolation." if checks else "")
    )


def _each_number(table: pd.DataFrame, found: pd.DataFrame) -> Iterator[str]:
    grid = of_grid(table)
    by_trace, simulated, apart = changes(grid), points(grid), spread(grid)["spread"]
    rows = []
    for number in (each for each in NUMBERS if each.key in found):
        values = found[number.key].dropna()
        runs = simulated[number.key].to_numpy(float)
        nearest = int(np.nanargmin(abs(runs - number.change)))
        rows.append(
            [
                number.title,
                number.figure,
                percent(number.change),
                f"{percent(values.min())} … {percent(values.max())}",
                percent(float(runs[nearest])),
                " / ".join(map(percent, _models_at(by_trace, number.key, simulated.index[nearest]))),
                f"{apart[number.key] * 100:.0f}",
                *(percent(met(found, tolerance)[number.key].mean(), signed=False) for tolerance in TOLERANCES),
            ]
        )
    columns = ["number", "fig.", "paper", "reached", "nearest run", "its models", "spread"]
    yield markdown_table(rows, [*columns, *(f"±{tolerance * 100:.0f}" for tolerance in TOLERANCES)])
    models = " / ".join(by_trace.index.get_level_values("model").unique())
    yield paragraph(
        "*Reached*: the lowest and highest values of all points; not every value between them is reached. *Nearest "
        f"run*: the value of the closest simulated point, which is the mean of its models ({models}). *Spread*: the "
        "largest minus the smallest value of the models in percentage points, as a median over machines and caches, "
        "for the form with the widest spread. The last columns: the share of points that meet the number within that "
        "many percentage points."
    )


def _models_at(by_trace: pd.DataFrame, key: str, point: Any) -> list[float]:
    """The change on each trace for a number at a simulated point."""
    number, at = BY_KEY[key], dict(zip(POINT, point, strict=True))
    column = (key, at.get(number.baseline, ""), at["a hit"] if number.quantity == "hit" else "")
    cache_gb = FIGURE_12_GB if number.figure == "12" else at["cache_gb"]
    place = (*(at[name] for name in MACHINE), cache_gb)
    return [float(value) for value in by_trace[column].xs(place, level=[*MACHINE, "cache_gb"])]


def _regions(found: pd.DataFrame) -> Iterator[str]:
    table = feasible_shares(met(found, REGION_TOLERANCE))
    shares = {
        place: [f"{share * 100:.0f}" for share in row]
        for place, row in zip(table.index, table.to_numpy().tolist(), strict=True)
    }
    rows = [["all points", "", *shares["all points", ""]]]
    for axis, title in _AXES.items():
        values = [value for name, value in shares if name == axis]
        if axis in (LINK, LAYER):  # both ends and the middle of the interpolated values
            values = [values[place] for place in sorted({0, len(values) // 2, len(values) - 1})]
        rows += [[title, value_text(value), *shares[axis, value]] for value in values]
    yield paragraph(
        "For each value of an axis, the share [%] of its points that meet a number within "
        f"{REGION_TOLERANCE * 100:.0f} percentage points. A number constrains an axis if its share changes along the "
        "axis; 0 excludes the value. DS: DeepSpeed, MO: Mixtral-Offloading, PM: ProMoE, MI: MoE-Infinity."
    )
    yield markdown_table(rows, ["axis", "value", *(short(BY_KEY[key]) for key in _keys(found))], texts=2)


def _together(found: pd.DataFrame) -> Iterator[str]:
    rows: list[list[Any]] = []
    for group, keys in groups().items():
        known = [key for key in keys if key in found]
        counts = [best_points(found, tolerance, known)["met"] for tolerance in TOLERANCES]
        most = [
            f"{count.max()} ({percent((count == count.max()).mean(), 1, signed=False)} of points)" for count in counts
        ]
        rows.append([group, len(known), *most])
    yield markdown_table(rows, ["numbers", "how many", *(f"most within ±{t * 100:.0f}" for t in TOLERANCES)])
    yield paragraph(
        f"Points that meet the most numbers within {REGION_TOLERANCE * 100:.0f} points; "
        "axes not listed are unconstrained:"
    )
    yield "\n".join(item(f"- {line}") for line in _regions_of_groups(found))
    for tolerance in TOLERANCES:
        best = best_points(found, tolerance, _keys(found))
        point, first = best.index[0], best.iloc[0]
        there = dict(zip(_keys(found), found.loc[[point]].iloc[0].tolist(), strict=True))
        meets = dict(zip(_keys(found), met(found.loc[[point]], tolerance).iloc[0].tolist(), strict=True))
        missed = [f"{named(BY_KEY[key])}, here {percent(there[key])}" for key in there if not meets[key]]
        yield paragraph(
            f"Within {tolerance * 100:.0f} points, at most **{first['met']:.0f} of {len(found.columns)}** are met, at "
            f"{place_in_words(point)}. The mean distance from all numbers there is {points_text(first['deviation'])}. "
            + (f"Missed: {'; '.join(missed)}." if missed else "None is missed.")
        )
    closest = best_points(found, 0.0, _keys(found)).sort_values("deviation", kind="stable")
    yield paragraph(
        f"The least mean distance from all numbers, {points_text(closest['deviation'].iloc[0])}, is at "
        f"{place_in_words(closest.index[0])}."
    )


def _regions_of_groups(found: pd.DataFrame) -> Iterator[str]:
    for group, keys in groups().items():
        known = [key for key in keys if key in found]
        counts = best_points(found, REGION_TOLERANCE, known)["met"]
        if len(known) and counts.max() > 0:
            chosen = counts.index[counts == counts.max()]
            yield f"**{group}**, {counts.max()} of {len(known)}: {region_in_words(chosen, found.index)}"
        else:
            yield f"**{group}**, none: nowhere"


def _contradictions(table: pd.DataFrame, found: pd.DataFrame) -> Iterator[str]:
    yield paragraph(f"{_of_the_paper_alone()} {_with_more_cache(of_grid(table))}".rstrip())
    yield paragraph(
        "The smallest sets of numbers that no point meets together: first single numbers, then pairs whose "
        "numbers are each met by some point, then triples whose pairs are each met by some point. Larger sets were not "
        "searched."
    )
    for tolerance in TOLERANCES:
        sets = cannot_hold_together(met(found, tolerance))
        sizes = [sum(len(keys) == size for keys in sets) for size in (1, 2, 3)]
        counts = joined(quantity(count, what) for count, what in zip(sizes, ("number", "pair", "triple"), strict=True))
        yield f"**Within {tolerance * 100:.0f} points: {counts}.**"
        listed = [item(f"- {' **and** '.join(named(BY_KEY[key]) for key in keys)}") for keys in sets[:_SETS_SHOWN]]
        if len(sets) > _SETS_SHOWN:
            listed.append(f"- … and {len(sets) - _SETS_SHOWN} more")
        if listed:
            yield "\n".join(listed)


def _of_the_paper_alone() -> str:
    """What figures 10 and 12 imply for each other without any simulation."""
    tpot = {
        figure: {n.baseline: n.change for n in NUMBERS if (n.figure, n.quantity) == (figure, "tpot")}
        for figure in ("10", "12")
    }
    larger = [baseline for baseline in tpot["10"] if tpot["10"][baseline] < tpot["12"][baseline]]
    smaller = [baseline for baseline in tpot["10"] if tpot["10"][baseline] > tpot["12"][baseline]]
    return (
        "From the paper alone: its text says that the gaps of figure 12 narrow as the cache grows, and its smallest "
        f"cache is {FIGURE_12_GB:g} GB. Compared with that cache, figure 10 has larger reductions of TPOT against "
        f"{joined(larger)}, and smaller ones against {joined(smaller)}. If the gaps are reductions (shares of the "
        f"baseline's TPOT), the former require less than {FIGURE_12_GB:g} GB in figure 10 and the latter more. Then no "
        "single cache and testbed gives both figures, unless they average over different things. If the gaps are "
        "distances in ms, as in the statement `12-gaps`, nothing follows: a distance may shrink while the reduction "
        "grows, because TPOT falls with the cache. The detail of `12-gaps` has both readings of our simulations."
    )


def _with_more_cache(grid: pd.DataFrame) -> str:
    """On how many machines reductions of TPOT grow from the smallest to the largest cache; "" with one cache."""
    chosen = [
        (f"10-tpot-{baseline.lower()}", READINGS[baseline][0] if baseline in READINGS else "", "") for baseline in TPOT
    ]
    found = changes(grid)
    means = found[[each for each in chosen if each in found]].mean(axis=1, skipna=False)
    by_cache = means.groupby(level=[*MACHINE, "cache_gb"]).mean().unstack("cache_gb").dropna()
    if by_cache.shape[1] < 2 or by_cache.empty:
        return ""
    small, large = by_cache.columns[0], by_cache.columns[-1]
    grows = int((by_cache[large] < by_cache[small]).sum())
    return (
        f"In our simulations the mean reduction of TPOT is larger with {large:g} GB than with {small:g} GB on {grows} "
        f"of {len(by_cache)} machines."
    )


def _limits(table: pd.DataFrame, found: pd.DataFrame) -> Iterator[str]:
    items = [
        "**Routing.** It comes from the twins, or the traces given instead, with stand-ins for the paper's prompts. "
        "How well routing can be predicted decides the gains in hit rate and much of TPOT. One test request of each "
        "model runs, from the first set of prompts; the paper averages over 64 prompts of each of two sets.",
        "**Baselines.** They are our models of the systems, made from their papers and code. ProMoE has one form here.",
        "**The grid.** A number that no point meets is outside this grid, not impossible. The grid could be widened by "
        "other rates, more time per layer, time per expert (`framework.expert_s`), shared host memory "
        "(`host.memory_bytes_per_s`), contention, whole copies instead of chunks, other caches, and gains read as "
        "differences in percentage points.",
        f"**Rate and time per layer.** {_products(found)}",
        f"**Interpolation.** {_interpolation(table)}",
        "**Means.** A point is judged by its mean over the models, because the paper's numbers are means. If the "
        "spread is wide, one more model or request could move the mean by more than the smallest tolerance.",
    ]
    yield "\n".join(item(f"- {each}") for each in items)


def _products(found: pd.DataFrame) -> str:
    apart = pd.Series(same_products(found).to_numpy().ravel()).dropna()
    if apart.empty:
        return "No product of the two occurs twice in this grid."
    median, high = float(apart.median()), float(apart.quantile(0.95))
    return (
        f"Points with equal products of the two differ by {points_text(median)} in the median and by "
        f"{points_text(high)} at the 95th percentile. The smaller this difference, the less the numbers say about "
        "either alone."
    )


def _interpolation(table: pd.DataFrame) -> str:
    grid, inner, checks = of_grid(table), left_out(table), checks_of_rate(table)
    axes = {"rate": LINK, "time per layer": LAYER}
    known = [name for name, axis in axes.items() if grid[axis].nunique() > 2]
    sentences = []
    if len(inner):
        sentences.append(
            f"Along {joined(known)}, each simulated point between others was left out in turn and interpolated from "
            f"its neighbours: {_off(inner)}."
        )
    if len(checks):
        sentences.append(_along_the_rate(checks))
    elif "rate" not in known:
        sentences.append(
            "Nothing checks it along the rate here; the grid of the full study has runs for that."
            if sentences
            else "The grid has only edges, so nothing can check it."
        )
    return " ".join(sentences)


def _along_the_rate(checks: pd.DataFrame) -> str:
    """The error of interpolation between rates, in times, hit rates and the changes that are compared."""
    interpolated = checks.assign(**{name: checks[f"{name}_interpolated"] for name in FIGURES})
    apart = (points(interpolated) - points(checks)).abs()
    blurred = []
    for what, is_hit in (("reductions of TTFT and TPOT", False), ("gains in hit rate", True)):
        keys = [key for key in _keys(apart) if (BY_KEY[key].quantity == "hit") == is_hit]
        values = apart[keys].to_numpy(float)
        if not np.isnan(values).all():
            median, high, most = (points_text(float(np.nanquantile(values, share))) for share in (0.5, 0.95, 1))
            blurred.append(f"{median} in the median, {high} at the 95th percentile and {most} at most for {what}")
    by_layer = [f"with {layer:g} ms per layer, {_off(rows)}" for layer, rows in checks.groupby(LAYER)]
    return (
        f"Along the rate, {len(checks)} further runs at {_listed(checks[LINK])} GB/s and a cache of "
        f"{_listed(checks['cache_gb'])} GB check the interpolated values: {'; '.join(by_layer)}. In the means over the "
        f"models, which are compared with the paper's numbers, the error is {'; '.join(blurred)}. The borders of each "
        "region are uncertain by as much."
    )


def _off(checked: pd.DataFrame) -> str:
    """The error of interpolated times and hit rates, in words."""
    times = pd.concat([(checked[f"{name}_interpolated"] / checked[name] - 1).abs() for name in FIGURES[:2]])
    rates = pd.concat([(checked[f"{name}_interpolated"] - checked[name]).abs() for name in FIGURES[2:]])
    median, high, most = (percent(round(times.quantile(share), 3), 1, signed=False) for share in (0.5, 0.95, 1))
    return (
        f"times are off by {median} in the median, {high} at the 95th percentile and {most} at most, hit rates by "
        f"{points_text(float(rates.median()))}, {points_text(float(rates.quantile(0.95)))} and "
        f"{points_text(float(rates.max()))}"
    )


def _keys(found: pd.DataFrame) -> list[str]:
    return [str(key) for key in found.columns]


def _listed(column: "pd.Series[float]") -> str:
    return ", ".join(f"{value:g}" for value in sorted(column.unique()))
