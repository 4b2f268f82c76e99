"""The figure of a comparison: time per output token and the outcomes of demands, a bar per policy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.figures import GREY, HIT, LATE, MISS, figure, legend, panels, save
from sim.labels import labels
from sim.results.result import Result
from traces.format import provenance

_HEADING: dict[str, Any] = {"fontsize": 10, "pad": 24}
_BELOW_HEADING: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
_OUTCOMES = (
    ("hit_rate", HIT, "hit: on its GPU"),
    ("late_rate", LATE, "late: on its way"),
    ("miss_rate", MISS, "miss: in host memory"),
)


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw two panels with a bar per policy: time per output token, and the outcomes of demands.

    The labels of a run are below its name. Axis and title say whether times are simulated or measured.
    """
    summary = pd.DataFrame([result.summary for result in results])
    kind = "simulated" if summary["simulated"].all() else "measured"
    drawn = figure(10, 1.9 + 0.5 * len(summary))
    ((times, shares),) = panels(drawn, 1, 2, sharey=True)
    place = np.arange(len(summary))[::-1]

    tpot_ms = summary["tpot_s_mean"] * 1e3
    times.barh(place, tpot_ms, color=GREY)
    spread = (summary["tpot_s_p50"] * 1e3, summary["tpot_s_p95"] * 1e3)
    times.hlines(place, *spread, color="black", label="median to 95th percentile")
    for at, value in zip(place, tpot_ms, strict=True):
        times.annotate(f"{value:.1f}", (value, at), (6, 9), textcoords="offset points", va="center", fontsize=8)
    times.set(yticks=place, yticklabels=names(results), xlabel=f"{kind} time per output token, mean [ms]")
    times.margins(x=0.15)
    times.set_title("How long a token takes: shorter is better", **_HEADING)
    legend(times, **_BELOW_HEADING)

    left = np.zeros(len(summary))
    for column, color, label in _OUTCOMES:
        percent = summary[column].to_numpy() * 100
        shares.barh(place, percent, left=left, color=color, label=label)
        for at, width, start in zip(place, percent, left, strict=True):
            if width >= 6:
                shares.text(start + width / 2, at, f"{width:.0f}", ha="center", va="center", color="white", fontsize=8)
        left = left + percent
    shares.set(xlim=(0, 100), xlabel="share of the distinct experts demanded [%]")
    shares.set_title("Where experts were when the router chose them", **_HEADING)
    legend(shares, ncols=3, **_BELOW_HEADING)

    drawn.suptitle(title(results), fontsize=10)
    save(drawn, path)


def names(results: Sequence[Result]) -> list[str]:
    """The name of each run, with its labels below."""
    return ["\n".join([each.summary["label"], *labels(each.summary)]) for each in results]


def title(results: Sequence[Result]) -> str:
    """The title of a picture: what was simulated or measured."""
    trace, model, machine = (results[0].provenance[name] for name in ("trace", "model", "machine"))
    total = model["layers"] * model["experts"]
    routing = provenance.routing(trace["kind"], trace["model"], trace["warning"])
    kind = "Simulated" if results[0].summary["simulated"] else "Measured"
    lines = [
        f"{kind}: {routing} with the sizes of {model['name']}",
        f"on {machine['described']}, the cache holds {results[0].provenance['cache_experts']} of {total} experts",
        *provenance.caution(trace["warning"]),
    ]
    return "\n".join(lines)
