"""The figure of where a mean iteration's time goes: a bar per policy with a piece per part (paper, figure 17)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.figures import BLUE, CYAN, GREEN, GREY, MAROON, NAVY, ORANGE, RED, figure, panels, save
from sim.engine.time_split import PARTS
from sim.results.policy_figure import names, title
from sim.results.result import Result

PHASES = {"decode": "decode iteration", "prefill": "prefill"}
_COLORS = {
    "compute_s": BLUE,
    "exchange_s": CYAN,
    "overhead_s": GREY,
    "miss_wait_s": RED,
    "late_wait_s": ORANGE,
    "wave_wait_s": MAROON,
    "search_wait_s": NAVY,
    "prefetch_wait_s": GREEN,
}

_MEANINGS = {
    "compute": "attention, experts, head",
    "exchange": "activations between GPUs",
    "overhead": "starting operations, driving the offloading",
    "miss (waiting)": "for an expert whose copy had not begun when the router chose it",
    "late (waiting)": "for an expert whose copy was under way then",
    "wave (waiting)": "for a slot, because one layer needs more experts than its GPU has slots",
    "search (waiting)": "for the policy's predictions",
    "prefetch (waiting)": "for all planned experts before the layer starts",
}


def columns(phase: str) -> list[str]:
    """The summary columns of the parts of a phase's mean iteration, in seconds."""
    return [f"{phase}_{part}" for part in PARTS]


def draw_parts(panel: Any, labels: Sequence[str], rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Stack the parts `[policies, parts]`, in seconds, in a bar per label, first on top; returns the parts' handles.

    A part that no policy has is left out.
    """
    places = range(len(labels) - 1, -1, -1)
    left = [0.0] * len(labels)
    handles = {}
    for part, seconds in zip(PARTS, zip(*rows, strict=True), strict=True):
        if any(seconds):
            ms = [each * 1e3 for each in seconds]
            name = part.removesuffix("_s").replace("_wait", " (waiting)")
            handles[name] = panel.barh(places, ms, left=left, color=_COLORS[part])
            left = [before + more for before, more in zip(left, ms, strict=True)]
    panel.set_yticks(places, labels)
    return handles


def draw_split(results: Sequence[Result], path: Path) -> None:
    """Draw a panel for decode iterations and one for prefills, if there are any, with a bar per policy."""
    summaries: list[Mapping[str, Any]] = [result.summary for result in results]
    phases = [phase for phase in PHASES if all(each[f"{phase}_compute_s"] is not None for each in summaries)]
    kind = "simulated" if summaries[0]["simulated"] else "measured"
    drawn = figure(5.5 * len(phases), 2.8 + 0.4 * len(summaries))
    handles: dict[str, Any] = {}
    for panel, phase in zip(panels(drawn, 1, len(phases), sharey=True).flat, phases, strict=True):
        rows = [[each[column] for column in columns(phase)] for each in summaries]
        handles |= draw_parts(panel, names(results), rows)
        panel.set_xlabel(f"{kind} time of a mean {PHASES[phase]} [ms]")
    look: dict[str, Any] = {"frameon": False, "fontsize": 8, "loc": "outside lower center", "ncols": 2}
    drawn.legend(handles.values(), [f"{name}: {_MEANINGS[name]}" for name in handles], **look)
    drawn.suptitle(title(results), fontsize=10)
    save(drawn, path)
