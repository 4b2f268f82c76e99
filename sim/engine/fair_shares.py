"""How copies that move at the same time share the bandwidth of host memory."""

import math
from collections.abc import Sequence


def fair_shares(caps: Sequence[float], total: float) -> list[float]:
    """Max-min fair rates `[N]` under these caps `[N]`, with a sum of at most `total`, all in bytes per second.

    A copy whose cap is below an equal share gets its cap; the others divide the rest equally.
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
