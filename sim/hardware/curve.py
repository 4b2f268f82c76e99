"""Efficiency curves: the share of a peak rate that copies and operations reach, by their size."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import TypeAlias

from common.errors import FieldError

Curve: TypeAlias = tuple[tuple[float, ...], ...]
"""Points (size, share of the peak), in rising order of size; without points, every size reaches the peak.

Between two points the share is linear in the logarithm of the size; outside them it is constant.
"""


def check_curve(curve: Sequence[Sequence[float]], field: str) -> None:
    """Raise a `FieldError` unless sizes are above 0 and rise, and shares are above 0 and at most 1."""
    before = 0.0
    for point in curve:
        if len(point) != 2:
            raise FieldError(field, f"must be a list of [size, share of the peak], not {list(point)}")
        size, share = point
        if not before < size < math.inf:
            raise FieldError(field, f"sizes must be above 0 and increase, but {size:g} follows {before:g}")
        if not 0 < share <= 1:
            raise FieldError(field, f"a share of the peak must be above 0 and at most 1, not {share:g}")
        before = size


def share_at(curve: Curve, size: float) -> float:
    """The share of the peak at `size`."""
    if not curve:
        return 1.0
    right = bisect_right(curve, size, key=lambda point: point[0])
    if right in (0, len(curve)):
        return curve[min(right, len(curve) - 1)][1]
    (low, share), (high, next_share) = curve[right - 1], curve[right]
    return share + (next_share - share) * math.log(size / low) / math.log(high / low)


def best_share_up_to(curve: Curve, size: float) -> float:
    """The largest share of the peak at `size` or any smaller size."""
    return max([share_at(curve, size), *(share for each, share in curve if each <= size), *_first(curve)])


def _first(curve: Curve) -> list[float]:
    """The share of all sizes below the first point."""
    return [curve[0][1]] if curve else []
