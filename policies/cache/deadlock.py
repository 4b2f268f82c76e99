"""The error of a driver whose run cannot go on: everything left waits for something that will not happen."""

from common.errors import UserError
from policies.cache.expert_cache import ExpertCache
from policies.cache.residency import RESIDENT


def deadlock(cache: ExpertCache, iteration: int, now_s: float) -> UserError:
    """The error for a run that is stuck in an iteration."""
    residency = cache.residency
    wanted = [expert for expert in residency.pinned if residency.where[residency.pin_base + expert] != RESIDENT]
    if wanted:
        what = f"layer {cache.layer_now} waits for its experts {', '.join(map(str, wanted))}"
    else:
        what = f"the layer after layer {cache.layer_now} waits for its planned experts"
    where = f"the run is stuck in iteration {iteration} after {now_s:.6g} s"
    return UserError(f"{where}: {what}, and no link has anything to copy")
