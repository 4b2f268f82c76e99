"""The order in which the prefetches that wait for a link are copied."""

from common.errors import UserError
from policies.base import CopyKey
from policies.cache.residency import Residency

Queue = list[tuple[float, int]]  # of one layer: (weight, -number) in rising order
Pending = dict[int, Queue]  # by layer


def weight_by_distance(layer: int, expert: int, weight: float, distance: int) -> float:
    """The key of eq. 10."""
    return weight / distance


def most_urgent_layer(pending: Pending, residency: Residency) -> list[int]:
    """Only the first of `by_layer`, without sorting. Both compute the distance inline, since they are hot."""
    now, layers = residency.layer_now, residency.layers
    urgent, most, nearest = -1, -1.0, layers
    for layer, queue in pending.items():
        distance = layer - now if layer > now else layer - now + layers
        priority = queue[-1][0] / distance
        if priority > most or (priority == most and distance < nearest):
            urgent, most, nearest = layer, priority, distance
    return [urgent]


def by_layer(pending: Pending, residency: Residency) -> list[int]:
    """Layers in the order of falling weight / distance of their best expert, ties by distance."""
    now, layers = residency.layer_now, residency.layers
    ranks = []
    for layer, queue in pending.items():
        distance = layer - now if layer > now else layer - now + layers
        ranks.append((-queue[-1][0] / distance, distance, layer))
    ranks.sort()
    return [layer for _, _, layer in ranks]


def by_key(key: CopyKey, pending: Pending, residency: Residency) -> list[tuple[float, int, int, float]]:
    """All waiting prefetches as (-key, distance, number, weight), the largest key first, ties by distance and expert.

    A key that is not a number is a `UserError`.
    """
    ranks = []
    for layer, queue in pending.items():
        distance, base = residency.distance(layer), layer * residency.experts
        for weight, negative in queue:
            expert = -negative - base
            value = key(layer, expert, weight, distance)
            if value != value:
                raise UserError(f"copy_key: layer {layer}, expert {expert}: must be a number, not {value}")
            ranks.append((-value, distance, -negative, weight))
    ranks.sort()
    return ranks
