"""A row of routing, as logs have it: a token and a layer, or a token and all of them."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

# The parts of a row, under the names that errors give them unless the source has its own.
ROW_PARTS = ("request", "position", "iteration", "phase", "layer", "experts", "weights", "gate", "token", "source")


@dataclass(slots=True, kw_only=True)
class Row:
    """What one row says: of one layer, or, with `layer` None, of all of them; None is what it does not say."""

    line: int  # where it stands in its file
    request: Hashable = None
    position: Any = None
    iteration: Any = None  # 0 is the prefill
    phase: Any = None  # "prefill" or "decode"
    layer: Any = None
    experts: Any  # [K], or [L][K] of all layers
    weights: Any = None  # as experts
    gate: Any = None  # [J] or [L][J]: what the router said of all experts
    token: Any = None
    source: Any = None
