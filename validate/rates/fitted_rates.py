"""Turn times into the rates of a data sheet: peaks, and the share of them reached at each size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from sim.hardware.curve import Curve
from sim.hardware.parts import Link
from validate.rates.operations import OperationTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """The best rates of a GPU, and the time to start an operation."""

    flops_per_s: float
    product_side: int
    """Side of the square matrices whose product gives this rate."""
    memory_bytes_per_s: float
    copied_bytes: int
    """Bytes of the copy within GPU memory that gives this rate."""
    overhead_s: float

    def ideal_s(self, one: OperationTime) -> tuple[float, float]:
        """Seconds of computation and of memory traffic at these rates."""
        return one.flops / self.flops_per_s, one.memory_bytes / self.memory_bytes_per_s


def fitted_link(seconds: Mapping[int, float]) -> Link:
    """The link whose copies take so many seconds by bytes; latency is at most nine tenths of the shortest."""
    sizes = sorted(seconds)
    least, next_least = sizes[0], sizes[1]
    slope_s = (seconds[next_least] - seconds[least]) / (next_least - least)
    latency_s = min(max(seconds[least] - slope_s * least, 0.0), 0.9 * min(seconds.values()))
    rates = {size: size / (seconds[size] - latency_s) for size in sizes}
    peak = max(rates.values())
    efficiency = tuple((float(size), rates[size] / peak) for size in sizes)
    return Link(latency_s=latency_s, bytes_per_s=peak, efficiency=efficiency)


def efficiencies(times: Sequence[OperationTime], peaks: Peaks) -> dict[str, Curve]:
    """For each operation, the shares of the peak rate of computing and of memory, by tokens.

    A time yields the share of the rate that bounds it: computing if arithmetic takes longer at the peak rates,
    otherwise memory. Of several models measured at one size, the median counts. A share is at most 1.
    """
    found: dict[str, dict[int, list[float]]] = {}
    for one in times:
        computing_s, moving_s = peaks.ideal_s(one)
        bound = "flops" if computing_s > moving_s else "memory"
        took_s = max(one.timing.median_s - peaks.overhead_s, one.timing.median_s / 2)
        share = min(1.0, max(computing_s, moving_s) / took_s)
        found.setdefault(f"{one.operation}_{bound}", {}).setdefault(one.tokens, []).append(share)
    return {
        name: tuple((float(tokens), median(shares[tokens])) for tokens in sorted(shares))
        for name, shares in sorted(found.items())
    }
