"""Requests as iterations: which tokens run together, and what they demand."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from policies.types import ModelShape, RecordedRequest


def iterations(requests: Sequence[RecordedRequest], batch_size: int, model: ModelShape) -> Iterator[dict[str, Any]]:
    """Each iteration of the run, as a dict.

    `rows` has a (request, row of the request, place of the request among those that run) for each token. `experts` says
    for each layer how many tokens execute each demanded expert.
    """
    number = 0
    for first in range(0, len(requests), batch_size):
        group = list(requests[first : first + batch_size])
        steps = {each.request: sorted(set(each.iteration.tolist())) for each in group}
        for step in range(max(len(each) for each in steps.values())):
            running = [each for each in group if step < len(steps[each.request])]
            rows = [
                (each, row, place)
                for place, each in enumerate(running)
                for row in np.flatnonzero(each.iteration == steps[each.request][step]).tolist()
            ]
            experts: list[dict[int, int]] = [{} for _ in range(model.layers)]
            for each, row, _ in rows:
                for layer in range(model.layers):
                    for expert in sorted(set(each.experts[row, layer].tolist()) - {-1}):
                        experts[layer][expert] = experts[layer].get(expert, 0) + 1
            yield {
                "number": number,
                "running": running,
                "prefill": [steps[each.request][step] == 0 for each in running],
                "rows": rows,
                "tokens": len(rows),
                "context": sum(
                    max(int(other.position[row]) + 1 for other, row, _ in rows if other is each) for each in running
                ),
                "attended": sum(int(each.position[row]) + 1 for each, row, _ in rows),
                "experts": [dict(sorted(each.items())) for each in experts],
                "starting": running if step == 0 else [],
                "ending": [each for each in running if step == len(steps[each.request]) - 1],
            }
            number += 1
