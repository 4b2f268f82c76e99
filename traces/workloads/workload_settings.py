"""What a workload is chosen or drawn by, and what recorded requests are fitted to."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt

from common.errors import FieldError
from common.settings import Suffix, check

PROCESSES = ("poisson", "gamma")
MAX_PROMPT_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class ArrivalSettings:
    """The workload of a file, a sample of it, or one that is drawn from a process."""

    workload: str
    """Azure LLM inference traces or BurstGPT (CSV), Mooncake (JSONL), our own Parquet; or the process poisson or
    gamma."""
    _: KW_ONLY
    requests: Annotated[int, Ge(1)] | None = None
    """Number of requests; those of a file are drawn at random. By default all of a file."""
    rate: Annotated[float, Gt(0)] | None = None
    """Mean requests per second; the time of a file is stretched."""
    burstiness: Annotated[float, Gt(0)] | None = None
    """Of gamma: coefficient of variation of the gaps; 1 is Poisson."""
    lengths: Path | None = None
    """Of a process: draw prompt and output lengths from the workload in this file."""
    prompt_tokens: Annotated[int, Ge(1)] | None = None
    """Of a process: length of every prompt."""
    output_tokens: Annotated[int, Ge(1)] | None = None
    """Of a process: length of every output."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        check(self)
        if self.is_process:
            self._check_process()
            return
        for name in ("burstiness", "lengths", "prompt_tokens", "output_tokens"):
            if getattr(self, name) is not None:
                raise FieldError(name, f"is for poisson and gamma only, not for {self.workload}")

    @property
    def is_process(self) -> bool:
        """Whether arrivals are drawn, not read."""
        return self.workload in PROCESSES

    def _check_process(self) -> None:
        name = self.workload
        for needed in ("rate", "requests"):
            if getattr(self, needed) is None:
                raise FieldError(needed, f"{name} needs it")
        if name == "gamma" and self.burstiness is None:
            raise FieldError("burstiness", "gamma needs it; 1 is a Poisson process")
        if name == "poisson" and self.burstiness not in (None, 1.0):
            raise FieldError("burstiness", f"must be 1 for poisson, value {self.burstiness:g}; gamma takes any")
        fixed = [one is not None for one in (self.prompt_tokens, self.output_tokens)]
        if any(fixed) if self.lengths else not all(fixed):
            raise FieldError("lengths", f"{name} needs either this or both prompt_tokens and output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadTarget:
    """What is made of a workload."""

    out: Annotated[Path, Suffix(".parquet")] | None = None
    """Write the workload, a row per request: FILE.parquet."""
    plot: Annotated[Path, Suffix(".png", ".svg", ".pdf")] | None = None
    """Draw arrivals over time, and lengths: FILE.png, .svg or .pdf."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """Whose lengths and arrivals recorded requests get."""

    workload: Path
    """Lengths and arrivals: what `traces arrivals --out` wrote, or any file that it reads."""
    requests: Annotated[int, Ge(1)] | None = None
    """Number of rows drawn from the workload. By default all of them."""
    rate: Annotated[float, Gt(0)] | None = None
    """Stretch its time to this many requests per second."""
    max_prompt_tokens: Annotated[int, Ge(1)] = MAX_PROMPT_TOKENS
    """Longer prompts are cut to this length."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        check(self)
