"""Text report of prediction quality."""

import pandas as pd

from common.tables import number, numbers, text_table
from sim.forecast.prediction_quality import Quality
from traces.format import provenance


def report(quality: Quality) -> str:
    """Heading, table and notes."""
    lines = [
        heading(quality),
        "Searches are instantaneous; no cache is modelled.",
        "Shares are of all layers / of the layers from the distance on.\n",
        table(quality.summary()),
    ]
    return "\n".join([*lines, *(f"\n{', '.join(policies)}: {note}" for note, policies in quality.notes.items())])


def heading(quality: Quality) -> str:
    """What was predicted."""
    trace, shape = quality.trace, quality.trace.shape
    warning = quality.settings["trace"]["warning"]
    what = (
        f"Prediction of {quality.requests} requests of {trace.path.name} "
        f"({provenance.routing(trace.meta.kind, shape.name, warning)}: "
        f"{shape.layers} × {shape.experts} experts of {shape.expert_bytes / 1e6:.3g} MB, top-{shape.top_k})"
    )
    return "\n".join([what, *provenance.caution(warning)])


def table(summary: pd.DataFrame) -> str:
    """What a person reads: a row per policy, distance and kind of iteration; shares in percent."""

    def percent(*values: float) -> str:
        return numbers(values, ".1f", 100)

    rows = [
        [
            each["policy"],
            each["distance"],
            "prefill" if each["prefill"] else "decode",
            percent(each["recall"], each["recall_ahead"]),
            percent(each["precision"]),
            percent(each["recall_at_k"], each["recall_at_k_ahead"]),
            percent(each["coverage"], each["coverage_ahead"]),
            number(each["lead_mean"], ".1f"),
            f"{each['useful_bytes'] / each['tokens'] / 1e6:.4g}",
            f"{each['wasted_bytes'] / each['tokens'] / 1e6:.4g}",
        ]
        for each in summary.to_dict("records")
    ]
    headers = ["policy", "distance", "", "recall %\nall / ahead", "precision\n%", "recall@K %\nall / ahead"]
    headers += ["coverage %\nall / ahead", "lead\nlayers", "useful\nMB/token", "wasted\nMB/token"]
    return text_table(rows, headers, texts=3)
