"""Text report of prediction quality."""

from typing import Any

import pandas as pd

from common.folding import NAME_WIDTH, folded, folded_name
from common.tables import number, numbers, quantity, text_table
from sim.forecast.prediction_quality import Quality
from traces.format import provenance


def report(quality: Quality, *, wide: bool = False) -> str:
    """Heading, table and notes; a `wide` table has all columns, in lines of any width."""
    ahead = " / of layers d and later (d: the distance)" if wide else ""
    remarks = ["Searches are instantaneous; no cache is modelled.", f"Shares are of all layers{ahead}."]
    lines = [*heading(quality).splitlines(), *remarks]
    head = "\n".join(folded(line, indent="  ") for line in lines)
    notes = (f"{', '.join(policies)}: {note}" for note, policies in quality.notes.items())
    return "\n\n".join([head, table(quality.summary(), wide=wide), *(folded(note, indent="  ") for note in notes)])


def heading(quality: Quality) -> str:
    """The heading: requests, trace and model."""
    trace, shape = quality.trace, quality.trace.shape
    warning = quality.settings["trace"]["warning"]
    what = (
        f"Prediction of {quantity(quality.requests, 'request')} of {trace.path.name} "
        f"({provenance.routing(trace.meta.kind, shape.name, warning)}: "
        f"{shape.layers} × {shape.experts} experts of {shape.expert_bytes / 1e6:.3g} MB, top-{shape.top_k})"
    )
    return "\n".join([what, *provenance.caution(warning)])


def table(summary: pd.DataFrame, *, wide: bool = False) -> str:
    """A row per policy, distance and kind of iteration; shares in percent.

    A `wide` table also has the shares of the layers from number d on, and bytes.
    """

    def percent(each: dict[str, Any], name: str) -> str:
        return numbers([each[name], each[f"{name}_ahead"]] if wide else [each[name]], ".1f", 100)

    records: list[dict[str, Any]] = summary.to_dict("records")  # type: ignore[assignment]  # keys are texts
    rows = [
        [
            each["policy"] if wide else folded_name(each["policy"], NAME_WIDTH, "  "),
            each["distance"],
            "prefill" if each["prefill"] else "decode",
            percent(each, "recall"),
            number(each["precision"], ".1f", 100),
            percent(each, "recall_at_k"),
            percent(each, "coverage"),
            number(each["lead_mean"], ".1f"),
        ]
        for each in records
    ]
    of = "all / ahead" if wide else "%"
    headers = ["policy", "distance", "", f"recall{' %' * wide}\n{of}", "precision\n%", f"recall@K{' %' * wide}\n{of}"]
    headers += [f"coverage{' %' * wide}\n{of}", "lead\nlayers"]
    if wide:
        for row, each in zip(rows, records, strict=True):
            row += [number(each[f"{kind}_bytes"] / each["tokens"], ".4g", 1e-6) for kind in ("useful", "wasted")]
        headers += ["useful\nMB/token", "wasted\nMB/token"]
    return text_table(rows, headers, texts=3)
