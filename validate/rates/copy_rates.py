"""Measure copies from host memory to a device, by size and by the kind of host memory."""

import time
from collections.abc import Sequence
from typing import Literal

import torch

from validate.rates.device_timer import DeviceTimer, Timing

HostMemory = Literal["pinned", "pageable"]
_MOVED_BYTES = 1 << 28  # bytes that all repeats move together, for small copies


def copy_times(timer: DeviceTimer, memory: HostMemory, sizes: Sequence[int]) -> dict[int, Timing]:
    """Time a copy of each size that the host waits for, as for an expert copied on demand."""
    source = torch.zeros(max(sizes), dtype=torch.uint8, pin_memory=memory == "pinned" and timer.on_gpu)
    target = torch.zeros(max(sizes), dtype=torch.uint8, device=timer.device)
    found = {}
    for size in sizes:
        copies = max(1, min(64, _MOVED_BYTES // size // timer.repeats))
        target[:size].copy_(source[:size])
        seconds = []
        for _ in range(timer.repeats):
            timer.wait()
            begun_s = time.perf_counter()
            for _ in range(copies):
                target[:size].copy_(source[:size], non_blocking=True)
                timer.wait()
            seconds.append((time.perf_counter() - begun_s) / copies)
        found[size] = Timing.of(seconds)
    return found
