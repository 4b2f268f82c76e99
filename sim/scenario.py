"""A scenario: everything that one run depends on, as one frozen dataclass.

The same fields are the Python API, the `[scenario]` table of a TOML file and the options of the command line.
`sim.content_hash` turns a scenario into the key of its result.
"""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from common.errors import FieldError
from common.settings import check
from policies.cache.placement import Placement
from policies.types import ModelShape
from sim.hardware.memory import GpuMemory

Detail = Literal["requests", "iterations", "events"]
CHUNK_BYTES = 16_000_000  # half a millisecond over PCIe 4.0: a demand waits no longer than that for a prefetch
NO_EFFECT = ("detail", "check", "label")  # fields of a scenario that do not change any number


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """The size of the expert cache, over all GPUs together. Set exactly one of the three fields."""

    experts: Annotated[int, Ge(1)] | None = None
    """Cache size over all GPUs, as a number of experts."""
    share: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Cache size over all GPUs, as a share of all experts (0 to 1), rounded down to whole experts."""
    gb: Annotated[float, Gt(0)] | Literal["max"] | None = None
    """Cache size over all GPUs in gigabytes (1e9 bytes), rounded down to whole experts; or max: all memory that the
    machine leaves for experts."""

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

    def slots(self, model: ModelShape, memory: GpuMemory | None = None) -> int:
        """The number of slots over all GPUs for a model; a share or gigabytes never give more slots than experts.

        Raises a `FieldError` if the size is `max` and the machine's memory is unknown.
        """
        if self.experts is not None:
            return self.experts
        if self.gb == "max":
            if memory is None:
                raise FieldError("cache.gb", "max needs a machine that states its memory (gpu.memory_bytes)")
            return min(memory.fitting(model), model.total_experts)
        if self.gb is not None:
            fitting = self.gb * 1e9 / model.expert_bytes
        else:
            assert self.share is not None
            fitting = self.share * model.total_experts
        return int(min(fitting + 1e-6, model.total_experts))  # 0.35 * 1440 is slightly below 504 in binary


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that one run depends on: routing, policy, model sizes, machine and cache.

    Raises a `FieldError` that names the field if a value is not allowed.
    """

    trace: Path
    """Trace whose routing is replayed (a folder NAME.trace)."""
    _: KW_ONLY
    policy: str = "finemoe"
    """NAME[,setting=value…][+EVICTOR]: a policy, and optionally another evictor. Either may be your own
    module:callable. `finemoe sim policies` lists the names."""
    sizes: str | None = None
    """Combine the traced routing with the sizes of a published model: mixtral-8x7b, qwen1.5-moe-a2.7b, phi-3.5-moe or
    gpt-oss-20b. The trace must have the same experts per layer and top-k. Default: the traced model's own sizes."""
    machine: str = "rtx3090x6"
    """A preset (rtx3090x6, rtx3090, rtx4090, a100-80gb, h100-80gb, h200-141gb; paper-rtx3090x6, paper-rtx3090,
    paper-a100), or a FILE.toml: a machine of your own, or a profile from `finemoe validate calibrate`. Append
    ,key=value to change a figure: rtx3090x6,host.memory_bytes_per_s=96e9."""
    cache: CacheSize = CacheSize(share=0.25)
    """The size of the expert cache, over all GPUs together."""
    history: Path | None = None
    """Learn from this trace instead of from a share of the replayed one. Does not change which requests run; set the
    train split to 0 to run all."""
    train_split: Annotated[float, Interval(ge=0, lt=1)] = 0.7
    """Share of the requests that the policy may learn from (its history). Only the others run: 2 of 8 with 0.7."""
    requests: Annotated[int, Ge(1)] | None = None
    """Run at most N of the requests outside the history."""
    batch_size: Annotated[int, Ge(1)] = 1
    """Requests per batch. The next batch starts when the last request of a batch has ended."""
    placement: Placement = "round-robin"
    """How experts are assigned to GPUs: round-robin deals them in turn; balanced spreads the demands that each
    layer had in the history evenly over the GPUs."""
    counts: Path | None = None
    """For balanced placement: a table of expert counts to use in place of the history's demands."""
    replicas: Annotated[int, Ge(1)] = 1
    """Number of GPUs that an expert may be copied to: its own and the next ones. It is on only one of them at a time. A
    copy takes the least busy link."""
    chunk_bytes: Annotated[int, Ge(1)] | Literal["whole"] = CHUNK_BYTES
    """Split prefetches into chunks of N bytes, or copy them whole. A demanded expert is copied whole, and waits for at
    most one chunk of a prefetch. A policy's own chunk size takes precedence. At most 1,000 chunks per expert."""
    prefetch: bool = True
    """Copy what the policy plans. If off, experts are copied on demand only: an evictor that reads predictions still
    gets the plans, but nothing waits for them."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the split into history and requests to run, and of the policy."""
    detail: Detail = "iterations"
    """Finest rows to keep in the result. events adds the decision log."""
    check: bool = False
    """Check every answer of the policy and, where there is a cache, its invariants after every call (slower)."""
    label: str | None = None
    """The run's name in tables and figures. Default: its policy."""

    def __post_init__(self) -> None:
        check(self)
        if self.counts is not None and self.placement != "balanced":
            raise FieldError("counts", f"needs `placement` balanced, not {self.placement}")

    @property
    def name(self) -> str:
        """The run's name in tables and figures."""
        return self.label or self.policy
