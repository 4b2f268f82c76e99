"""Interpolate times and hit rates between the simulated points of a grid of testbeds.

A copy takes its bytes divided by the rate, and every layer adds the framework's time. So times are nearly a plane over
1 / rate and time per layer, bent where copies hide behind that time. Times and hit rates are interpolated linearly in
these two; the paper's ratios are not linear, so they are computed afterwards.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.paper.testbed.testbed_runs import CHECK, FIGURES, LABELS, of_grid

LINK, LAYER = "link_gb_per_s", "layer_ms"
_REST = [name for name in LABELS if name not in (LINK, LAYER)]


def refined(table: pd.DataFrame, steps: int = 4) -> pd.DataFrame:
    """The table with each interval between neighbouring rates, and times per layer, divided into `steps`.

    Rates are spaced evenly in 1 / rate. The columns are `LABELS` and `FIGURES`. Nothing is extrapolated, and checks are
    left out.
    """
    grid = of_grid(table)
    links, layers = _axes(grid)
    return _interpolated(grid, 1 / _between(1 / links, steps), _between(layers, steps))


def checks_of_rate(table: pd.DataFrame) -> pd.DataFrame:
    """The checks between the rates of the grid, with the interpolated values there in `FIGURE_interpolated`."""
    grid, checks = of_grid(table), table[table[CHECK]]
    between = _interpolated(grid, *_axes(checks)) if len(checks) else grid.head(0)
    return checks.merge(between[[*LABELS, *FIGURES]], on=LABELS, suffixes=("", "_interpolated"))


def _axes(table: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The rates and times per layer in rising order."""
    return np.sort(table[LINK].unique()), np.sort(table[LAYER].unique())


def _interpolated(table: pd.DataFrame, at_links: NDArray[np.float64], at_layers: NDArray[np.float64]) -> pd.DataFrame:
    """The grid interpolated at every combination of these rates and times per layer; NaN where points are missing."""
    if table.duplicated(LABELS).any():
        raise ValueError("a point of the grid has two rows")
    links, layers = _axes(table)
    by_link, by_layer = _weights(-1 / links, -1 / at_links), _weights(layers, at_layers)
    frames = []
    for labels, rows in table.groupby(_REST, sort=False, dropna=False):
        places_known = np.searchsorted(links, rows[LINK]), np.searchsorted(layers, rows[LAYER])
        fine = {}
        for name in FIGURES:
            known = np.full((len(links), len(layers)), np.nan)
            known[places_known] = rows[name]
            fine[name] = (by_link @ known @ by_layer.T).ravel()
        places = {LINK: np.repeat(at_links, len(at_layers)), LAYER: np.tile(at_layers, len(at_links))}
        frames.append(pd.DataFrame({**dict(zip(_REST, labels, strict=True)), **places, **fine}))
    return pd.concat(frames, ignore_index=True)[[*LABELS, *FIGURES]]


def left_out(table: pd.DataFrame) -> pd.DataFrame:
    """Simulated rows inside the grid, each with the value interpolated without it in `FIGURE_interpolated`.

    A point inside the grid along one axis is interpolated from its two neighbours there; if along both, the two values
    are averaged. Empty if the grid has only edges. Checks do not count.
    """
    table, frames = of_grid(table), []
    for axis, other in ((LINK, LAYER), (LAYER, LINK)):
        values = np.sort(table[axis].unique())
        for before, at, after in zip(values, values[1:], values[2:], strict=False):
            share = _weights(_scale(axis, np.array([before, after])), _scale(axis, np.array([at])))[0]
            keys = [*_REST, other]
            low, middle, high = (table[table[axis] == value].set_index(keys)[FIGURES] for value in (before, at, after))
            between = (share[0] * low + share[1] * high).add_suffix("_interpolated")
            frames.append(middle.join(between).reset_index().assign(**{axis: at}))
    if not frames:
        return pd.DataFrame(columns=[*LABELS, *FIGURES, *(f"{name}_interpolated" for name in FIGURES)])
    means: pd.DataFrame = pd.concat(frames).groupby(LABELS, sort=False, dropna=False).mean().reset_index()
    return means


def _scale(axis: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rising values in which times and hit rates are nearly linear."""
    return -1 / values if axis == LINK else values


def _between(values: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """The values, with `steps` - 1 more evenly spaced between neighbours."""
    places = np.arange((len(values) - 1) * steps + 1) / steps
    return np.asarray(np.interp(places, np.arange(len(values)), values))


def _weights(known: NDArray[np.float64], wanted: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of linear interpolation, `[wanted, known]`; `known` rises."""
    return np.stack([np.interp(wanted, known, unit) for unit in np.eye(len(known))], axis=1)
