"""Effects by which the parts of an iteration slow each other down."""

import math
from dataclasses import dataclass
from typing import Literal

DemandLoading = Literal["parallel", "serial"]
"""Whether the experts that a layer waits for move over all links at once, or one after another.

These are the experts that it demands, and under `blocking_prefetch` those of its plan. Serial is how the FineMoE
authors' released code works.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """How the parts of an iteration slow each other down. Each default turns its effect off."""

    host_bytes_per_s: float = math.inf
    """Host memory bandwidth, shared fairly by the copies whose bytes are moving."""
    layer_host_s: float = 0.0
    """CPU time of the serving framework in each layer, before its attention starts."""
    expert_host_s: float = 0.0
    """CPU time of the serving framework to launch one expert, after the gate."""
    compute_slowdown: float = 1.0
    """Factor on a GPU's computing time while bytes move to it; at least 1."""
    copy_slowdown: float = 1.0
    """Factor on the time of moving bytes while their GPU computes; at least 1."""

    @property
    def contended(self) -> bool:
        """Whether copies and computing on one GPU slow each other down."""
        return self.compute_slowdown != 1 or self.copy_slowdown != 1
