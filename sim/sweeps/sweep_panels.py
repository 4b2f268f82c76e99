"""Shared parts of sweep pictures: a panel per setting, a style per policy, a legend outside, a title."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import pandas as pd

from common.errors import UserError
from common.figures import SERIES, figure, panels, save
from common.folding import folded_name
from sim.labels import labels
from sim.sweeps.short_names import SettingNames
from sim.sweeps.sweep import Sweep
from sim.sweeps.sweep_columns import Setting, plain, plain_rows
from sim.sweeps.sweep_statistics import knows_the_future
from sim.sweeps.sweep_subject import title

MOST_PANELS = 12
COLUMNS = 3
_MARKERS = "os^Dv"


class Style(NamedTuple):
    """How a policy is drawn; the first forty all look different."""

    color: str
    marker: str
    size: float
    """The size of the marker in points; later ones are smaller, so that equal points all stay visible."""


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name, in the order in which they are drawn."""
    return {
        name: Style(SERIES[place % len(SERIES)], _MARKERS[place % len(_MARKERS)], 6.5 - 3 * place / len(names))
        for place, name in enumerate(names)
    }


def done_runs(sweep: Sweep, path: Path) -> pd.DataFrame:
    """The finished runs. Raises a `UserError` that names the picture if there are none."""
    done = sweep.frame[sweep.frame["status"] == "done"]
    if done.empty:
        raise UserError(f"{path}: nothing to draw: none of the {len(sweep.frame)} runs finished")
    return done


def by_setting(runs: pd.DataFrame, axes: Sequence[str]) -> dict[Setting, pd.DataFrame]:
    """The runs of each combination of the axes' values, in their order."""
    keys = [tuple(map(plain, row)) for row in runs[list(axes)].itertuples(index=False, name=None)]
    places: dict[Setting, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return {key: runs.iloc[rows] for key, rows in places.items()}


def grid(
    axes: Sequence[str], settings: Sequence[Setting], *, across: int, path: Path, **shared: Any
) -> tuple[Any, Any]:
    """A figure and its panels `[rows, columns]`, `across` per setting. Too many settings raise a `UserError`."""
    if len(settings) * across > MOST_PANELS:
        raise UserError(
            f"{path}: {' × '.join(axes)} have {len(settings)} combinations of values, at most "
            f"{MOST_PANELS // across} can be drawn; sweep over fewer, or draw rows of sweep.parquet"
        )
    columns = across if across > 1 else min(COLUMNS, len(settings))
    rows = ceil(len(settings) * across / columns)
    drawn = figure(max(7.0, 4.2 * columns), 3.5 * rows)
    return drawn, panels(drawn, rows, columns, **shared)


def panel_title(axes: Sequence[str], setting: Setting) -> str:
    """The setting of a panel, folded; empty if there is only one panel."""
    return fill(SettingNames(axes, [setting], 30).text(setting), 44) if axes else ""


def legend_name(policy: str, runs: pd.DataFrame) -> str:
    """The policy's name, folded for a legend, with its labels below."""
    facts = runs.reindex(columns=["fits", "prediction_charged"]).drop_duplicates()
    notes = list(dict.fromkeys(text for each in plain_rows(facts) for text in labels(each)))
    pays = runs.reindex(columns=["prefetching_pays"])["prefetching_pays"].dropna().astype(bool)
    if slower := int((~pays).sum()):
        notes.append(f"prefetching does not pay in {slower} of {len(runs)} runs")
    if knows_the_future(policy):
        notes.append("knows future demands")
    return "\n".join([folded_name(policy, 30), *notes])


def finish(drawn: Any, sweep: Sweep, path: Path, handles: Mapping[str, Any], below: str) -> None:
    """Add the legend below the panels and the title above them, with the text `below` under it, and save the file."""
    width, height = drawn.get_size_inches()
    columns = max(1, int(width / 2.4))
    names = list(handles)
    rows = [names[place : place + columns] for place in range(0, len(names), columns)]
    ordered = [row[place] for place in range(columns) for row in rows if place < len(row)]  # filled column by column
    drawn.legend(
        [handles[name] for name in ordered],
        ordered,
        frameon=False,
        fontsize=8,
        loc="outside lower center",
        ncols=columns,
    )
    lines = [fill(line, int(11.5 * width)) for line in [*title(sweep.frame, sweep.experiment).splitlines(), below]]
    drawn.suptitle("\n".join(lines), fontsize=10)
    text_lines = "\n".join(lines).count("\n") + 1 + sum(max(name.count("\n") + 1 for name in row) for row in rows)
    drawn.set_size_inches(width, height + 0.2 * text_lines)
    save(drawn, path)
