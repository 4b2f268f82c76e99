"""Naturalness of a trace as text."""

from collections.abc import Iterator, Mapping
from typing import Any

from common.folding import folded
from common.tables import number
from traces.analysis.nearest_map import DISTANCE
from traces.format import provenance

WIDTH = 84  # leaves room for a column of names


def lines(found: Mapping[str, Any], warning: str | None) -> list[str]:
    """Lines that describe `Naturalness.to_data`, and the warning if there is one."""
    figures = [f"{name}: {_values(found[name])}" for name in ("decode", "prompts") if found[name]]
    unknown = [f"not measured: {'; '.join(found['unknown'])}"] if found["unknown"] else []
    wrapped = [line for each in [*figures, *unknown] for line in folded(each, WIDTH, "  ").splitlines()]
    return [*wrapped, *provenance.caution(warning, width=WIDTH)]


def _values(figures: Mapping[str, Any]) -> str:
    return ", ".join(_each(figures))


def _each(figures: Mapping[str, Any]) -> Iterator[str]:
    names = ("distinct_tokens", "repeated_4grams", "repeated_rows")
    distinct, grams, rows = (number(figures[name], ".1%") for name in names)
    yield f"{distinct} of {figures['sampled_tokens']:,} tokens distinct"
    yield f"{grams} of their 4-grams occurred before"
    yield f"{rows} of {figures['rows']:,} rows occurred before"
    recall = number(figures["nearest_map_recall"], ".3f")
    yield f"nearest-map recall {recall} at d = {DISTANCE} (of {figures['stored_maps']:,} maps)"
