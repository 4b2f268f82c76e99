"""Measure how long work takes on a device, without the time to launch it."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Launch = Callable[[int], object]
"""Launches the n-th of several equal pieces of work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one piece of work: median, minimum and maximum of several repeats."""

    median_s: float
    least_s: float
    most_s: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        """The timing of repeats."""
        return cls(median_s=statistics.median(seconds), least_s=min(seconds), most_s=max(seconds))


@dataclass(frozen=True, slots=True)
class DeviceTimer:
    """Times work on a device; on a GPU as one graph of many pieces, so that launches are not included."""

    device: torch.device
    repeats: int

    @property
    def on_gpu(self) -> bool:
        """Whether the device runs beside the processor."""
        return self.device.type == "cuda"

    def timed(self, launch: Launch, pieces: int) -> Timing:
        """Time one piece of work, of so many that run one after the other."""
        run = self.launcher(launch, pieces)
        run()
        return Timing.of([self.seconds_of(run) / pieces for _ in range(self.repeats)])

    def launcher(self, launch: Launch, pieces: int) -> Callable[[], object]:
        """A function that launches all pieces; on a GPU a graph, which is recorded now."""

        def one_by_one() -> None:
            for piece in range(pieces):
                launch(piece)

        if not self.on_gpu:
            return one_by_one
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            launch(0)  # so that everything that is set up once is set up
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            one_by_one()
        return graph.replay

    def seconds_of(self, run: Callable[[], object]) -> float:
        """Seconds of a launch, from its beginning on the device to its end there."""
        if not self.on_gpu:
            begun_s = time.perf_counter()
            run()
            return time.perf_counter() - begun_s
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def wait(self) -> None:
        """Wait until the device has done everything that was launched."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
