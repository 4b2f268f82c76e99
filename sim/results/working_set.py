"""What one iteration needs, and what a cache with less room makes every policy move.

An iteration executes at least one token, which in each of L layers takes K distinct experts: w = L·K in all, and no
expert belongs to two layers. When the iteration starts, the c slots of the cache hold at most c experts, those under
way included, which have their slot from the first chunk on. So at least w − c of the experts that the iteration
demands have no slot yet. It cannot end before they are on a GPU, so each of them is copied whole, from the first chunk
to the last, within the iteration. This holds in every iteration and for every policy, whatever it prefetches, since it
counts copies and not misses; a policy that only copies on demand also misses w − c times. With batches an iteration
may need more, never less.

Where layers' experts differ in size, the w − c may be the smallest of those that a token takes.

Each GPU has a link, and over it experts come one after the other. Wherever the experts' homes are, some link carries at
least the G-th part of the w − c, rounded up. So an iteration takes at least as long as these copies.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from common.tables import size
from sim.inputs import Inputs
from sim.started_policy import Outcome


def working_set(run: Outcome, inputs: Inputs) -> dict[str, Any]:
    """The bytes of the experts that a token and an iteration demand, and the least that every iteration moves.

    The 95th percentile is the demand of an iteration that there was, at the mean size of an expert. The least is 0
    where the slots of the run hold the experts of one token. Its time is null where times were measured, since no
    figure computed from a profile belongs among them.
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
    """What follows for every policy if the cache of a run holds less than the experts of one token."""
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
