"""A scenario: everything that one run depends on, as one frozen dataclass.

It is the Python API, the `[scenario]` table of a TOML file and the options of the command line; `sim.content_hash`
makes a key of it.
"""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from common.errors import FieldError
from common.settings import check
from policies.cache.placement import Placement
from policies.types import ModelShape

Detail = Literal["requests", "iterations", "events"]
CHUNK_BYTES = 16_000_000  # half a millisecond over PCIe 4.0, the longest that a demand waits for a prefetch
NO_EFFECT = ("detail", "check", "label")  # fields of a scenario that change no figure


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """How many experts all GPUs together can hold; exactly one of the three is set."""

    experts: Annotated[int, Ge(1)] | None = None
    """Experts that fit on all GPUs together."""
    share: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Share of all experts that fit on all GPUs together, rounded down."""
    gb: Annotated[float, Gt(0)] | None = None
    """Gigabytes (1e9 bytes) of experts that fit on all GPUs together, rounded down."""

    def __post_init__(self) -> None:
        check(self)
        given = [name for name in ("experts", "share", "gb") if getattr(self, name) is not None]
        if len(given) != 1:
            raise FieldError(
                given[-1] if given else "share", "give exactly one of `cache.experts`, `cache.share` and `cache.gb`"
            )

    @property
    def field(self) -> str:
        """Which of the three is set."""
        return next(name for name in ("experts", "share", "gb") if getattr(self, name) is not None)

    def slots(self, model: ModelShape) -> int:
        """Slots of all GPUs together for a model; a share or gigabytes never give more than it has experts."""
        if self.experts is not None:
            return self.experts
        if self.gb is not None:
            fitting = self.gb * 1e9 / model.expert_bytes
        else:
            assert self.share is not None
            fitting = self.share * model.total_experts
        return int(min(fitting + 1e-6, model.total_experts))  # 35 % of 1440 is 504, whatever binary fractions say


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is run: routing, policy, sizes, machine, cache. A `FieldError` says which field cannot have its value."""

    trace: Path
    """The routing: a NAME.trace folder."""
    _: KW_ONLY
    policy: str = "finemoe"
    """NAME[,setting=value…][+EVICTOR]: a policy and its evictor, each perhaps a module:callable of your own; see
    `finemoe sim policies`."""
    sizes: str | None = None
    """Simulate the sizes of a published model with the traced routing: mixtral-8x7b, qwen1.5-moe-a2.7b, phi-3.5-moe or
    gpt-oss-20b. Experts per layer and top-k must be those of the trace."""
    machine: str = "rtx3090x6"
    """A preset (rtx3090x6, rtx3090, rtx4090, a100-80gb, h100-80gb, h200-141gb; paper-rtx3090x6, paper-rtx3090,
    paper-a100), or a FILE.toml: a machine of your own, or a profile that `validate calibrate` wrote. Figures may
    follow: rtx3090x6,host.memory_bytes_per_s=96e9."""
    cache: CacheSize = CacheSize(share=0.25)
    """How many experts all GPUs together can hold."""
    history: Path | None = None
    """Learn from this trace instead of a share of the other. Does not change which requests run; add a train split of 0
    to run all."""
    train_split: Annotated[float, Interval(ge=0, lt=1)] = 0.7
    """Share of the requests that the policy may learn from; the others are run."""
    requests: Annotated[int, Ge(1)] | None = None
    """Run at most N of the requests outside the history."""
    batch_size: Annotated[int, Ge(1)] = 1
    """Requests that run together, until the last of them has ended."""
    placement: Placement = "round-robin"
    """Which GPU each expert lives on: dealt in turn, or so that each layer's demands in the history fall evenly."""
    counts: Path | None = None
    """A table of expert counts for balanced placement, in place of the history's demands."""
    replicas: Annotated[int, Ge(1)] = 1
    """How many GPUs may host an expert, one at a time: the one that placement chose and those after it. A copy goes
    over the least busy link."""
    chunk_bytes: Annotated[int, Ge(1)] | Literal["whole"] = CHUNK_BYTES
    """Move prefetches in chunks of N bytes, or whole. Demands are served between two chunks, and move whole. A policy
    may have a setting of its own."""
    prefetch: bool = True
    """Copy what the policy plans. Otherwise experts are copied on demand only: plans still reach an evictor that reads
    predictions, and nothing waits for them."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the split and of the policy."""
    detail: Detail = "iterations"
    """The finest rows to keep; events is the decision log."""
    check: bool = False
    """Check what the policy says, and the invariants of the cache after every call; slower."""
    label: str | None = None
    """What tables and figures call the run; without it, its policy."""

    def __post_init__(self) -> None:
        check(self)
        if self.counts is not None and self.placement != "balanced":
            raise FieldError("counts", f"is for placement balanced, not {self.placement}, value {self.counts}")

    @property
    def name(self) -> str:
        """What tables and figures call the run."""
        return self.label or self.policy
