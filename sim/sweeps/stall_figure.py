"""The figure of where a sweep's iteration time goes: a panel per setting, a bar per policy, a piece per part."""

from pathlib import Path
from typing import Any

from common.folding import folded_name
from sim.results.time_split_figure import PHASES, columns, draw_parts
from sim.sweeps.sweep import Sweep
from sim.sweeps.sweep_columns import setting_axes
from sim.sweeps.sweep_panels import by_setting, done_runs, finish, grid, panel_title


def draw_stalls(sweep: Sweep, path: Path) -> None:
    """Draw the parts of a mean decode iteration (of a prefill if nothing is decoded), as means over seeds."""
    runs = done_runs(sweep, path)
    phase = next(each for each in PHASES if runs[columns(each)[0]].notna().any())
    axes = setting_axes(sweep.axes)
    settings = by_setting(runs, axes)
    drawn, panels = grid(axes, list(settings), across=1, path=path, sharex=True)
    handles: dict[str, Any] = {}
    for panel, (setting, rows) in zip(panels.flat, settings.items(), strict=False):
        found = {}
        for (policy,), own in by_setting(rows, ["policy"]).items():
            parts = own.drop_duplicates("seed")[columns(phase)].dropna()
            if len(parts):
                found[folded_name(str(policy), 28)] = parts.mean().tolist()
        handles |= draw_parts(panel, list(found), list(found.values()))
        panel.set(title=panel_title(axes, setting), xlabel=f"simulated time of\na mean {PHASES[phase]} [ms]")
        panel.title.set_fontsize(9)
        panel.tick_params(axis="y", labelsize=8)
        panel.tick_params(labelbottom=True)
    for empty in panels.flat[len(settings) :]:
        empty.set_visible(False)
    finish(drawn, sweep, path, handles, "mean over seeds")
