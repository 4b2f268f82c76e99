"""How fast what computes and what moves bytes goes, while other things do."""

import math
from collections.abc import Callable
from typing import Any

from sim.hardware.effects import Effects


def set_speeds(works: list[dict[str, Any]], effects: Effects, saw: Callable[[str], None]) -> None:
    """The speed of each work, of 1 if it were alone."""
    computes = {work["computes"] for work in works if "computes" in work}
    copies = [work for work in works if "moves" in work and work["alone_s"]]
    moves = {work["moves"] for work in copies}
    for work in works:
        if "computes" in work:
            work["speed"] = 1 / effects.compute_slowdown if work["computes"] in moves else 1.0
    own: dict[int, float] = {}
    for copy in copies:
        slowed = effects.copy_slowdown if copy["moves"] in computes else 1.0
        own[copy["moves"]] = copy["size"] / copy["alone_s"] / slowed
    fair = max_min_fair(own, effects.host_bytes_per_s)
    for copy in copies:
        copy["speed"] = fair[copy["moves"]] * copy["alone_s"] / copy["size"]
    if any(fair[link] < own[link] for link in own):
        saw("host memory binds")
    if computes & moves and effects.contended:
        saw("contention")


def max_min_fair(wanted: dict[int, float], whole: float) -> dict[int, float]:
    """Bytes per second of each: those that want no more than an equal share of what is left get what they want."""
    given: dict[int, float] = {}
    left, open_ = whole, dict(wanted)
    while open_:
        share = left / len(open_) if math.isfinite(left) else math.inf
        modest = {link: rate for link, rate in open_.items() if rate <= share}
        if not modest:
            return given | dict.fromkeys(open_, share)
        given |= modest
        left -= sum(modest.values())
        open_ = {link: rate for link, rate in open_.items() if link not in modest}
    return given
