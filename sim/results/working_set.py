"""The experts that one iteration needs, and the bytes that every policy must move if the cache is smaller.

An iteration executes at least one token. In each of L layers the token takes K distinct experts: w = L·K in all, since
no expert belongs to two layers. When the iteration starts, the c slots of the cache hold at most c experts, including
those on their way, which have a slot from the first chunk on. So at least w − c of the demanded experts have no slot
yet. The iteration cannot end before they are on a GPU, so each of them is copied whole within the iteration. This is
true in every iteration and for every policy, whatever it prefetches, because it counts copies, not misses. A policy
that only copies on demand also misses w − c times. With batches an iteration may need more, but never less.

If layers' experts differ in size, the w − c may be the smallest experts of a token.

Each GPU has one link, which carries experts one after another. Wherever the experts' homes are, some link carries at
least a G-th of the w − c, rounded up. So an iteration takes at least as long as these copies.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from common.tables import size
from sim.inputs import Inputs
from sim.started_policy import Outcome


def working_set(run: Outcome, inputs: Inputs) -> dict[str, Any]:
    """The bytes of the experts that a token and an iteration demand, and the least bytes that every iteration moves.

    The 95th percentile is the demand of an actual iteration, at the mean size of an expert. The least bytes are 0 if
    the slots hold the experts of one token. Their time is null if times were measured, because computed times must not
    be mixed with measured ones.
    """
    model, machine = inputs.model, inputs.machine
    token = model.layers * model.top_k
    smallest_first = sorted(size for size in model.layer_expert_bytes for _ in range(model.top_k))
    demanded = run.iterations[["hits", "late", "misses"]].sum(axis=1)
    least = max(0, token - run.expert_slots)
    least_s = None
    if run.simulated:
        on_one_link = -(-least // machine.links)
        copy_s = machine.cost(model).least_copy_s
        least_s = sum(map(copy_s, smallest_first[:on_one_link]))
    return {
        "working_set_bytes_token": sum(smallest_first),
        "working_set_bytes_p95": int(np.quantile(demanded, 0.95, method="inverted_cdf")) * model.expert_bytes,
        "least_copied_bytes_per_iteration": sum(smallest_first[:least]),
        "least_link_s_per_iteration": least_s,
    }


def cache_too_small(summary: Mapping[str, Any]) -> str | None:
    """A warning if the cache of a run is smaller than the experts of one token; otherwise None."""
    least_bytes, least_s = summary["least_copied_bytes_per_iteration"], summary["least_link_s_per_iteration"]
    if not least_bytes:
        return None
    token_bytes, when = summary["working_set_bytes_token"], "token" if summary["batch_size"] == 1 else "iteration"
    time = f", at least {least_s * 1e3:.3g} ms of link time" if least_s else ""
    return (
        f"The cache ({size(token_bytes - least_bytes)}) is smaller than the experts of one token "
        f"({size(token_bytes)}): on-demand policies must miss, and at least {size(least_bytes)} have to move "
        f"per {when}{time}"
    )
