"""A row of a routing log: one token in one layer, or in all layers."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

# The parts of a row; error messages use these names unless the source has its own.
ROW_PARTS = ("request", "position", "iteration", "phase", "layer", "experts", "weights", "gate", "token", "source")


@dataclass(slots=True, kw_only=True)
class Row:
    """The content of one row: one layer, or all layers if `layer` is None. Absent parts are None."""

    line: int  # line number in the file
    request: Hashable = None
    position: Any = None
    iteration: Any = None  # 0 is the prefill
    phase: Any = None  # "prefill" or "decode"
    layer: Any = None
    experts: Any  # [K], or [L][K] for all layers
    weights: Any = None  # like experts
    gate: Any = None  # [J] or [L][J]: scores of all experts
    token: Any = None
    source: Any = None
