"""Figures of an analysis, one PNG each, drawn from its tables."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.figures import BLUE, GREY, ORANGE, RED, figure, legend, panels, save
from common.tables import number
from traces.analysis.iterations import Array
from traces.analysis.trace_analysis import Analysis
from traces.format import provenance

_LABELS = {
    "trajectory": ("cosine of expert maps", "overlapping experts [%]"),
    "ahead": ("cosine of the first half of the maps", "overlapping experts of the second half [%]"),
    "semantic": ("cosine of embeddings", "overlapping experts [%]"),
}
_PROMISES = {0.75: ("2LJ", "v"), 0.98: ("½·LJ·ln(LJ)", "^")}


def draw_all(found: Analysis, folder: Path) -> list[Path]:
    """Draw a figure for each table that has one; returns the files written."""
    written = []
    for name, draw in _PICTURES.items():
        if name in found.tables:
            path = folder / f"{name}.png"
            drawn = draw(found)
            width = int(drawn.get_figwidth() * 13)
            below = [textwrap.fill(whose(found), width), *provenance.caution(found.meta["warning"], width=width)]
            drawn.suptitle("\n".join([_headline(name, found), *below]), fontsize=10)
            save(drawn, path, dpi=130)
            written.append(path)
    return written


def whose(found: Analysis) -> str:
    """Caption with the trace, its kind and the number of requests."""
    meta = found.meta
    only = "" if meta["gate_complete"] else "; gates: weights of the executed experts only"
    routing = provenance.routing(meta["kind"], meta["model"], meta["warning"])
    return f"{meta['trace']}: {routing}, {meta['analysed_requests']} requests{only}"


def heat_maps(found: Analysis) -> Any:
    """Fig. 3a: a request's mean expert map beside the maps of single iterations."""
    table = found.tables["heat_map"]
    coarse, fine = table[table["iteration"].isna()], table[table["iteration"].notna()]
    titled = [("coarse: mean of the request", coarse)]
    titled += [(f"fine: iteration {iteration}", cells) for iteration, cells in fine.groupby("iteration")]
    layers, experts = found.meta["layers"], found.meta["experts"]
    height = 1.6 + 2.4 * float(np.clip(layers / experts, 0.4, 1.6))
    drawn, axes = _figure(2.7 * len(titled) + 0.8, height, 1, len(titled))
    for axis, (title, cells) in zip(axes, titled, strict=True):
        image = _map(axis, cells["probability"].to_numpy().reshape(layers, experts), most=1, power=0.5)
        axis.set_title(title, fontsize=9)
    axes[0].set_ylabel("layer")
    drawn.colorbar(image, ax=list(axes), label="probability\n(colours by its root)", pad=0.01)
    return drawn


def entropy(found: Analysis) -> Any:
    """Fig. 3b and 3c: entropy per layer, and entropy over the number of averaged iterations."""
    table, through = found.tables["entropy"], found.tables["entropy_iterations"]
    drawn, (left, right) = _figure(11, 4.2, 1, 2)
    uniform = table["uniform_bits"].iloc[0]
    for axis in (left, right):
        axis.axhline(uniform, color=GREY, linestyle=":", label="all experts equally probable")
    mean_map = "coarse: a request's mean map"
    left.plot(table["layer"], table["coarse_bits"], "o-", color=RED, markersize=4, label=mean_map)
    counted = "coarse: a request's counts of executed experts"
    left.plot(table["layer"], table["coarse_counts_bits"], "s--", color=ORANGE, markersize=3, label=counted)
    left.plot(table["layer"], table["fine_bits"], "o-", color=BLUE, markersize=4, label="fine: an iteration's map")
    left.set(xlabel="layer", ylabel="entropy [bits]", ylim=(0, uniform * 1.05))
    _whole(left)
    decode = _running(through, "decode")
    right.plot(decode.index, decode.drop(columns="mean").to_numpy(), color=BLUE, alpha=0.2, linewidth=0.7)
    right.plot([], [], color=BLUE, alpha=0.4, linewidth=0.7, label="single layers")
    right.plot(decode.index, decode["mean"], color=BLUE, linewidth=2.2, label="decode iterations, mean of the layers")
    prefill = _running(through, "prefill")
    if len(prefill):
        name = "the prefill and decode iterations, mean"
        right.plot(prefill.index, prefill["mean"], color=RED, linewidth=1.5, linestyle="--", label=name)
    right.set(xlabel="iterations averaged (up to the median request length)", ylim=(0, uniform * 1.05))
    right.set(ylabel="entropy of their mean [bits]", xscale="log" if len(decode) > 60 else "linear")
    right.xaxis.set_major_formatter("{x:g}")
    for axis in (left, right):
        legend(axis, loc="lower right")
    return drawn


def overlap(found: Analysis) -> Any:
    """Overlap of consecutive decode iterations, per layer."""
    table = found.tables["overlap"]
    drawn, axis = _figure(7, 3.8)
    axis.bar(table["layer"], table["overlap"] * 100, color=BLUE, label="after a decode iteration")
    mean, chance = table["overlap"].mean() * 100, found.meta["top_k"] / found.meta["experts"] * 100
    axis.axhline(mean, color=RED, label=f"mean of the layers: {mean:.1f} %")
    axis.axhline(chance, color=GREY, linestyle=":", label=f"experts drawn at random: {chance:.1f} %")
    if table["overlap_after_prefill"].notna().any():
        axis.plot(table["layer"], table["overlap_after_prefill"] * 100, "D", color=ORANGE, label="after the prefill")
    axis.set(xlabel="layer", ylabel="experts executed again [%]")
    _whole(axis)
    legend(axis, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return drawn


def caches(found: Analysis) -> Any:
    """Miss ratio over cache size, and reuse distances."""
    curves = found.tables["cache_curves"]
    drawn, axes = _figure(13, 4.2, 1, 3)
    least = found.meta["top_k"]  # slots that a single token needs
    own = curves[curves["cache"] == "per layer"]
    styles = (("LRU", "lru", BLUE), ("Belady", "belady", RED))
    for axis, (name, policy, color) in zip(axes, styles, strict=False):
        for _, layer in own[own["layer"].notna()].groupby("layer"):
            _miss_curve(axis, layer, policy, least, color=color, alpha=0.3, linewidth=0.8)
        axis.plot([], [], color=color, alpha=0.5, linewidth=0.8, label=f"{name}, single layers")
        for cache, linestyle in (("per layer", "-"), ("shared", "--")):
            some = curves[(curves["cache"] == cache) & curves["layer"].isna()]
            if len(some):
                label = f"{name}, all layers" if cache == "per layer" else f"{name}, one cache for all layers"
                _miss_curve(axis, some, policy, least, color=color, linewidth=2.2, linestyle=linestyle, label=label)
        axis.set(xlim=(0, 100), ylim=(0, 100), xlabel="cache size [% of the experts]")
        axis.set_ylabel("miss ratio [% of distinct demands]")
    total = own[own["layer"].isna()]
    _miss_curve(axes[1], total, "lru", least, color=BLUE, linewidth=1.2, linestyle=":", label="LRU, all layers")
    distances = found.tables["reuse_distance"]
    uses = distances.groupby("distance")["uses"].sum() / distances["uses"].sum() * 100
    first = distances.loc[distances["distance"].isna(), "uses"].sum() / distances["uses"].sum() * 100
    axes[2].bar(uses.index.to_numpy(int), uses, color=BLUE, width=0.9)
    axes[2].set(xlabel="reuse distance [experts of the layer]", ylabel="uses [%]")
    axes[2].set_title(f"first uses in a request: {first:.1f} %", fontsize=9)
    for axis in axes[:2]:
        legend(axis, loc="upper right")
    return drawn


def similarity(found: Analysis) -> Any:
    """Fig. 8 and 9: overlap over similarity, for all pairs and binned."""
    pairs, bins = found.tables["similarity_pairs"], found.tables["similarity_bins"]
    table = found.tables["similarity"]
    phases, kinds = list(table["phase"].unique()), list(table["similarity"].unique())
    drawn, grid = _figure(4.3 * len(kinds) + 0.6, 3.7 * len(phases) + 0.5, len(phases), len(kinds), squeeze=False)
    for row in table.itertuples():
        axis = grid[phases.index(row.phase), kinds.index(row.similarity)]
        some = pairs[(pairs["phase"] == row.phase) & (pairs["similarity"] == row.similarity)]
        mean = bins[(bins["phase"] == row.phase) & (bins["similarity"] == row.similarity)]
        image = axis.hexbin(
            some["score"], some["overlap"] * 100, gridsize=35, mincnt=1, bins="log", cmap="Blues", linewidths=0
        )
        axis.errorbar(
            mean["score"],
            mean["overlap"] * 100,
            mean["overlap_std"] * 100,
            fmt="o-",
            color=RED,
            markersize=3.5,
            linewidth=1,
            elinewidth=0.6,
            label="bins: mean ± standard deviation",
        )
        asked, seen = _LABELS[row.similarity]
        correlations = (row.pearson_pairs, row.pearson_bins, row.pearson_nearest)
        of_pairs, of_bins, of_nearest = (number(value, ".2f") for value in correlations)
        axis.set(xlabel=asked, ylabel=seen)
        axis.set_title(
            f"{row.phase}, {row.similarity}: Pearson {of_pairs} of {row.pairs:,} pairs,\n"
            f"{of_bins} of {row.bins} bins, {of_nearest} of nearest",
            fontsize=8.5,
        )
        scale = drawn.colorbar(image, ax=axis, label="pairs", format="{x:,.0f}")
        scale.minorformatter = ""
        if image.norm.vmax < 10:  # a logarithmic scale would label only 1
            scale.set_ticks(range(1, int(image.norm.vmax) + 1))
    legend(grid[0, 0], loc="upper left")
    return drawn


def popularity(found: Analysis) -> Any:
    """Load of each expert, and balance per layer."""
    table, balance = found.tables["popularity"], found.tables["balance"]
    layers, experts = found.meta["layers"], found.meta["experts"]
    load = table["token_share"].to_numpy().reshape(layers, experts) * experts
    drawn, (left, right) = _figure(11, 4.6, 1, 2)
    image = _map(left, -np.sort(-load, axis=1), most=load.max())
    left.set(ylabel="layer", xlabel="experts of the layer, most used first")
    drawn.colorbar(image, ax=left, label="load, as a multiple of the layer's mean")
    right.bar(balance["layer"], balance["max_over_mean"], color=BLUE, label="largest load over mean")
    right.set(xlabel="layer", ylabel="largest load over mean")
    _whole(right)
    other = right.twinx()
    name = "Gini coefficient"
    other.plot(balance["layer"], balance["gini"], "D-", color=RED, markersize=3.5, linewidth=1, label=name)
    other.set(ylim=(0, 1), ylabel=name)
    handles = [handle for axis in (right, other) for handle in axis.get_legend_handles_labels()[0]]
    right.legend(handles=handles, frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return drawn


def coverage(found: Analysis) -> Any:
    """§4.4: similarity of the nearest stored map over store size."""
    table = found.tables["coverage"]
    drawn, axis = _figure(7, 4.2)
    most = "95 % of the test iterations"
    axis.fill_between(table["maps"], table["similarity_p05"], 1, color=BLUE, alpha=0.12, label=most)
    axis.plot(table["maps"], table["similarity_mean"], "o-", color=BLUE, markersize=4, label="their mean")
    guaranteed = table[table["theory"].notna()]
    for row in guaranteed.itertuples():
        name, marker = _PROMISES[row.theory]
        less = f" (only {row.maps:,} available)" if row.maps < row.asked_maps else ""
        label = f"theory: {name} = {row.asked_maps:,} maps{less}"
        axis.plot([row.maps], [row.theory], marker, color=RED, markersize=8, linestyle="none", label=label)
    axis.set_xscale("log", base=2)
    axis.set(ylim=(0, 1.04), xlabel="maps in the store", ylabel="cosine of the nearest stored map")
    axis.xaxis.set_major_formatter("{x:g}")
    legend(axis, loc="lower right")
    return drawn


_PICTURES: dict[str, Callable[[Analysis], Any]] = {
    "heat_map": heat_maps,
    "entropy": entropy,
    "overlap": overlap,
    "cache_curves": caches,
    "similarity": similarity,
    "popularity": popularity,
    "coverage": coverage,
}


def _headline(name: str, found: Analysis) -> str:
    if name == "heat_map":
        return f"Expert maps of request {found.tables[name]['request'].iloc[0]}"
    return {
        "entropy": "Entropy of expert maps: per layer, and over the number of averaged iterations",
        "overlap": "Overlap of consecutive decode iterations",
        "cache_curves": "Caches without prefetching, cold per request: miss ratio over size, and reuse distance",
        "similarity": "Overlap of executed experts over similarity, of test iterations with history iterations",
        "popularity": "Popularity of experts and balance of their load, by tokens",
        "coverage": "How well a store covers the workload",
    }[name]


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, squeeze: bool = True) -> tuple[Any, Any]:
    empty = figure(width, height)
    axes = panels(empty, rows, columns)
    return empty, np.squeeze(axes)[()] if squeeze else axes


def _running(through: Any, since: str) -> Any:
    """Entropy by number of iterations (rows) and layer (columns), with the mean, while half of the requests remain."""
    some = through[(through["since"] == since) & (through["requests"] >= through["requests"].max() / 2)]
    wide = some.pivot(index="iterations", columns="layer", values="entropy_bits")
    return wide.assign(mean=wide.mean(axis=1))


def _map(axis: Any, values: Array, *, most: float, power: float = 1) -> Any:
    """Draw an image with colours from 0 to `most`; a `power` below 1 separates small values better."""
    from matplotlib.colors import PowerNorm

    axis.set(xlabel="expert")
    _whole(axis)
    axis.yaxis.get_major_locator().set_params(integer=True)
    return axis.imshow(values, aspect="auto", cmap="viridis", norm=PowerNorm(power, 0, most), interpolation="nearest")


def _miss_curve(axis: Any, curve: Any, policy: str, least: int, **style: Any) -> None:
    """Draw the miss ratio for cache sizes of at least `least` slots."""
    known = curve[(curve["size"] >= least) & curve[f"{policy}_hit_rate"].notna()]
    axis.plot(known["size_share"] * 100, (1 - known[f"{policy}_hit_rate"]) * 100, **style)


def _whole(axis: Any) -> None:
    axis.xaxis.get_major_locator().set_params(integer=True)
