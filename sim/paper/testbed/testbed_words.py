"""Describe numbers and points of the implied testbed in words."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from common.tables import percent
from sim.paper.testbed.testbed_fit import POINT
from sim.paper.testbed.testbed_grid import READINGS
from sim.paper.testbed.testbed_numbers import PublishedNumber

_INITIALS = {"DeepSpeed": "DS", "Mixtral-Offloading": "MO", "ProMoE": "PM", "MoE-Infinity": "MI"}


def joined(words: Iterable[str], last: str = "and") -> str:
    """A list as part of a sentence."""
    *first, end = words
    return f"{', '.join(first)} {last} {end}" if first else end


def points_text(share: float) -> str:
    """A distance in percentage points."""
    return f"{share * 100:.1f} points"


def named(number: PublishedNumber) -> str:
    """Title, figure and the paper's value."""
    return f"{number.title} (fig. {number.figure}) {percent(number.change)}"


def short(number: PublishedNumber) -> str:
    """A short name for the head of a column."""
    return f"{number.figure} {number.quantity} {_INITIALS[number.baseline]}"


def value_text(value: Any) -> str:
    """A value on an axis."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def region_in_words(chosen: pd.Index, every: pd.Index) -> str:
    """Describe the chosen points: ranges of numbers, and the values of other axes unless all occur."""
    link, layer = (chosen.get_level_values(name) for name in ("link_gb_per_s", "layer_ms"))
    parts = [_range(link, "GB/s"), f"{_range(layer, 'ms')} per layer", f"product {_range(link * layer, 'MB')}"]
    for name in POINT[2:]:
        values, known = (dict.fromkeys(index.get_level_values(name)) for index in (chosen, every))
        if len(values) < len(known):
            listed = " or ".join(value_text(value) for value in values)
            parts.append(
                {"loading": f"{listed} loading", "cache_gb": f"{listed} GB in figure 10"}.get(name, f"{name}: {listed}")
            )
    return ", ".join(parts)


def _range(values: Any, unit: str) -> str:
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def place_in_words(point: Any) -> str:
    """Describe a point, whose values are in the order of `POINT`."""
    at = dict(zip(POINT, point, strict=True))
    link, layer = at["link_gb_per_s"], at["layer_ms"]
    readings = ", ".join(f"{name}: {at[name]}" for name in READINGS)
    return (
        f"{link:.3g} GB/s and {layer:.3g} ms per layer (product {link * layer:.3g} MB), {at['loading']} loading, "
        f"{at['cache_gb']:g} GB in figure 10 ({readings})"
    )
