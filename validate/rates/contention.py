"""Measure how much copies to a device and computation on it slow each other down."""

from dataclasses import dataclass

import torch

from validate.rates.device_timer import DeviceTimer
from validate.rates.operations import Operations

_COPY_BYTES = 1 << 26
_LONG_S = 0.1  # timed work lasts about so long, and the work beside it longer


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredContention:
    """How much longer experts on so many tokens and pinned copies take beside each other than alone."""

    model: str
    tokens: int
    compute_slowdown: float
    copy_slowdown: float


def contention(operations: Operations, timer: DeviceTimer, *, model: str, tokens: int) -> MeasuredContention:
    """Time experts while copies run, and copies while experts run."""
    source = torch.zeros(_COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.zeros(_COPY_BYTES, dtype=torch.uint8, device=timer.device)
    copying = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def copy_all(count: int) -> None:
        for _ in range(count):
            target.copy_(source, non_blocking=True)

    one_copy_s = timer.seconds_of(lambda: copy_all(8)) / 8
    with torch.no_grad():
        one = operations.expert_launcher(tokens, 16)
        one()
        one_s = timer.seconds_of(one)

    def compute_all(count: int) -> None:
        for _ in range(count):
            one()

    experts, copies = (max(1, round(_LONG_S / each)) for each in (one_s, one_copy_s))
    compute_alone_s = min(timer.seconds_of(lambda: compute_all(experts)) for _ in range(timer.repeats))
    copies_alone_s = min(timer.seconds_of(lambda: copy_all(copies)) for _ in range(timer.repeats))

    def beside_copies() -> float:
        with torch.cuda.stream(copying):
            copy_all(4 * copies)
        seconds = timer.seconds_of(lambda: compute_all(experts))
        timer.wait()
        return seconds

    def beside_experts() -> float:
        compute_all(4 * experts)
        with torch.cuda.stream(copying):
            seconds = timer.seconds_of(lambda: copy_all(copies))
        timer.wait()
        return seconds

    return MeasuredContention(
        model=model,
        tokens=tokens,
        compute_slowdown=max(1.0, min(beside_copies() for _ in range(timer.repeats)) / compute_alone_s),
        copy_slowdown=max(1.0, min(beside_experts() for _ in range(timer.repeats)) / copies_alone_s),
    )
