"""The report of an analysis, as text and as JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from common.folding import folded
from common.tables import text_table
from traces.analysis import naturalness_report
from traces.analysis.trace_analysis import Analysis
from traces.format import provenance

SHARES = (0.25, 0.5, 0.75)  # cache sizes, as shares of a layer's experts


def layers(found: Analysis) -> pd.DataFrame:
    """One row per layer with the main statistics; the last row, layer null, has their means.

    The last row's hit rates count all demands together, so they differ slightly from the mean over layers.
    """
    tables = found.tables
    joined: pd.DataFrame = tables["entropy"].merge(tables["overlap"], on="layer").merge(tables["balance"], on="layer")
    wanted = ["fine_bits", "coarse_bits", "coarse_counts_bits", "overlap", "max_over_mean", "gini"]
    table = joined[["layer", *wanted]].astype({"layer": "Int64"})
    mean = table[wanted].mean().to_frame().T
    table = pd.concat([table, mean], ignore_index=True)
    curves = tables["cache_curves"]
    for share in SHARES:
        size = max(1, int(found.meta["experts"] * share))
        at = curves[(curves["cache"] == "per layer") & (curves["size"] == size)]
        for policy in ("lru", "belady"):
            table[f"{policy}_hit_rate_{share}"] = at[f"{policy}_hit_rate"].to_numpy()
    return table


def summary(found: Analysis) -> dict[str, Any]:
    """The analysis as plain JSON: settings, statistics per layer and overall, similarities and coverage."""
    per_layer = _records(layers(found))
    shared = found.tables["cache_curves"].query("cache == 'shared' and layer.isna() and not belady_hit_rate.isna()")
    return {
        **found.meta,
        "uniform_bits": float(found.tables["entropy"]["uniform_bits"].iloc[0]),
        "all_layers": per_layer[-1],
        "per_layer": per_layer[:-1],
        "shared_cache": _records(shared.drop(columns=["cache", "layer"])) or None,
        "similarity": _records(found.tables.get("similarity")) or None,
        "coverage": _records(found.tables.get("coverage")) or None,
    }


def _records(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    if table is None:
        return []
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=12))
    return rows


def report(found: Analysis) -> str:
    """The analysis as text."""
    meta, given = found.meta, summary(found)
    lines = [
        f"{meta['trace']} ({provenance.explained(meta['kind'])}; routing of {meta['model']}): "
        f"{meta['layers']} layers of {meta['experts']} experts, "
        f"top-{meta['top_k']}; {meta['analysed_requests']:,} requests, {meta['iterations']:,} iterations"
    ]
    if not meta["gate_complete"]:
        lines.append(
            "The trace has gates of executed experts only: entropies and trajectory similarities ignore all others."
        )
    lines.append("\n".join(naturalness_report.lines(meta["naturalness"], meta["warning"])))
    lines.append(_layer_table(given))
    lines.append(
        _lines_of(
            f"Entropy: fine = one iteration's map; coarse = a request's mean map / its expert counts; at most "
            f"{given['uniform_bits']:.2f} bits. Overlap: share of a decode iteration's experts that the one before "
            "executed too.\nLRU, Belady: hit rate of a cache for this share of a layer's experts, cold per request. "
            "Load: by tokens."
        )
    )
    if given["shared_cache"]:
        lines.append("One cache for all layers, cold per request:\n" + _shared_table(given["shared_cache"]))
    if not given["similarity"]:
        lines.append("No similarities: no phase occurs in both history and test requests.")
        return "\n\n".join(lines)
    lines.append(_similarity_table(given["similarity"]))
    pairs = (
        f"Pairs: up to {meta['settings']['sample']} iterations drawn from {meta['test_requests']} test requests, each "
        f"with as many drawn from {meta['history_requests']} history requests (seed {meta['settings']['seed']}).\n"
        "Overlap: share of the test iteration's experts that the history iteration executed too. Ahead: similarity of "
        "the first half of the layers, overlap of the second half.\nBinned: means of 20 equally wide bins that have at "
        "least 10 pairs. Nearest: each test iteration with the most similar history iteration."
    )
    lines.append(_lines_of(pairs))
    if given["coverage"]:
        lines.append(_coverage_table(given["coverage"]))
    return "\n\n".join(lines)


def _lines_of(text: str) -> str:
    """The text with each line wrapped to a terminal's width."""
    return "\n".join(map(folded, text.splitlines()))


def _layer_table(given: Mapping[str, Any]) -> str:
    headers = ["layer", "entropy:\nfine, bits", "entropy:\ncoarse, bits", "overlap\n%"]
    headers += [f"{name} {share:.0%}\n%" for share in SHARES for name in ("LRU", "Belady")] + ["load\nmax/mean", "Gini"]
    rows = []
    for each in [*given["per_layer"], given["all_layers"]]:
        rates = [each[f"{policy}_hit_rate_{share}"] for share in SHARES for policy in ("lru", "belady")]
        rows.append(
            [
                "all" if each["layer"] is None else each["layer"],
                _cell(each["fine_bits"], 2),
                f"{_cell(each['coarse_bits'], 2)} / {_cell(each['coarse_counts_bits'], 2)}",
                *(_cell(value, 1, 100) for value in (each["overlap"], *rates)),
                _cell(each["max_over_mean"], 2),
                _cell(each["gini"], 2),
            ]
        )
    return text_table(rows, headers)


def _shared_table(curves: Sequence[Mapping[str, Any]]) -> str:
    keys = ("size_share", "lru_hit_rate", "belady_hit_rate")
    rows = [[each["size"], *(_cell(each[key], 1, 100) for key in keys)] for each in curves]
    return text_table(rows, ["slots", "% of\nexperts", "LRU\n%", "Belady\n%"])


def _similarity_table(similarities: Sequence[Mapping[str, Any]]) -> str:
    headers = ["similarity", "phase", "pairs", "Pearson\npairs", "Pearson\nbinned (bins)", "Pearson\nnearest"]
    headers += ["overlap %\nall / nearest"]
    rows = [
        [
            each["similarity"],
            each["phase"],
            f"{each['pairs']:,}",
            _cell(each["pearson_pairs"], 3),
            f"{_cell(each['pearson_bins'], 3)} ({each['bins']})",
            _cell(each["pearson_nearest"], 3),
            f"{_cell(each['mean_overlap'], 1, 100)} / {_cell(each['nearest_overlap'], 1, 100)}",
        ]
        for each in similarities
    ]
    return text_table(rows, headers)


def _coverage_table(coverages: Sequence[Mapping[str, Any]]) -> str:
    names = {0.75: "2LJ", 0.98: "½·LJ·ln(LJ)"}
    headers = [
        "maps stored",
        "the paper's bound\nfor those asked",
        "nearest map's\nsimilarity, mean",
        "5th\npercentile",
    ]
    headers += ["share ≥ 0.75\n%", "share ≥ 0.98\n%"]
    rows = []
    for each in coverages:
        asked = each["asked_maps"]
        bound = "–" if each["theory"] is None else f"{names[each['theory']]}: ≥ {each['theory']:.2f}"
        rows.append(
            [
                f"{asked:,}"
                if each["maps"] == asked
                else f"{each['maps']:,}\n({asked:,} asked,\nhistory has {each['maps']:,})",
                bound,
                _cell(each["similarity_mean"], 3),
                _cell(each["similarity_p05"], 3),
                _cell(each["share_at_least_0.75"], 1, 100),
                _cell(each["share_at_least_0.98"], 1, 100),
            ]
        )
    return text_table(rows, headers)


def _cell(value: float | None, digits: int, factor: float = 1) -> str:
    return "–" if value is None else f"{value * factor:.{digits}f}"
