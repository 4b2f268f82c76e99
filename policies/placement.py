"""Which GPU an expert lives on, and how many slots each GPU has."""

import numpy as np

from policies.errors import UserError
from policies.types import Int, ModelShape


def round_robin(model: ModelShape, gpus: int) -> Int:
    """`[L, J]` GPU of each expert, dealt in turn (paper §5: expert parallelism through a hash map)."""
    return (np.arange(model.total_experts) % gpus).reshape(model.layers, model.experts)


def split_slots(model: ModelShape, total: int, gpus: int) -> list[int]:
    """Slots per GPU of a cache of `total` experts: even, the remainder to the lowest numbers.

    A `UserError` unless top-k ≤ total ≤ L·J and every GPU gets at least one slot.
    """
    least = max(model.top_k, gpus)
    if not least <= total <= model.total_experts:
        raise UserError(
            f"cache of {total} experts: {model.name} on {gpus} GPU{'s' * (gpus > 1)} needs at least {least} "
            f"(top-{model.top_k}, one slot per GPU) and has use for at most {model.total_experts}"
        )
    return [total // gpus + (gpu < total % gpus) for gpu in range(gpus)]
