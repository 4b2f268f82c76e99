"""What makes the parts of an iteration wait for each other, beside what each costs alone."""

import math
from dataclasses import dataclass
from typing import Literal

DemandLoading = Literal["parallel", "serial"]
"""What a layer waits for comes over all links at once, or one after another, as in the FineMoE authors' released code.

That is what it demands, and what is planned for it if the policy has `blocking_prefetch`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """How the parts of an iteration slow each other down. Each default switches its effect off."""

    host_bytes_per_s: float = math.inf
    """Host memory bandwidth, shared fairly by the copies whose bytes are moving."""
    layer_host_s: float = 0.0
    """CPU time of the serving framework in each layer, before its attention starts."""
    expert_host_s: float = 0.0
    """CPU time of the serving framework for launching one expert, after the router has spoken."""
    compute_slowdown: float = 1.0
    """How much longer a GPU computes while bytes are moving to it; at least 1."""
    copy_slowdown: float = 1.0
    """How much longer bytes take while the GPU that they move to computes; at least 1."""

    @property
    def contended(self) -> bool:
        """Whether copies and computing on one GPU slow each other down."""
        return self.compute_slowdown != 1 or self.copy_slowdown != 1
