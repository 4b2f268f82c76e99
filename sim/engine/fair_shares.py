"""How copies that move at the same time share the bandwidth of host memory."""

import math
from collections.abc import Sequence


def fair_shares(caps: Sequence[float], total: float) -> list[float]:
    """Max-min fair rates under these caps `[N]` whose sum is at most `total`, all in bytes per second.

    Whoever cannot use an equal share keeps its cap; the others divide the rest equally.
    """
    if total == math.inf:
        return list(caps)
    rates = [0.0] * len(caps)
    rest = total
    order = sorted(range(len(caps)), key=caps.__getitem__)
    for place, each in enumerate(order):
        share = rest / (len(order) - place)
        if caps[each] > share:
            for other in order[place:]:
                rates[other] = share
            break
        rates[each] = caps[each]
        rest -= caps[each]
    return rates
