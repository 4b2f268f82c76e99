"""Measure how much copies, computation and several links slow each other down when they run concurrently."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from sim.hardware.parts import Contention
from validate.driver.threaded_driver import TURN_S

_WINDOWS, _WINDOW_S = 5, 0.1

Call = Callable[[], object]
Rates = Callable[[Sequence[Call]], Sequence[float]]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """The effects of running concurrently."""

    contention: Contention
    links_worth: float
    """What all links together move per second, relative to one link alone; at least 1."""


def calls_per_s(calls: Sequence[Call]) -> list[float]:
    """How often each call runs per second while all repeat concurrently, each in its own thread."""
    rates = [0.0] * len(calls)
    begun = threading.Barrier(len(calls))

    def repeat(number: int) -> None:
        call, count = calls[number], 0
        call()  # warms up
        begun.wait()
        begun_s = now_s = time.perf_counter()
        while now_s < begun_s + _WINDOW_S:
            call()
            count += 1
            now_s = time.perf_counter()
        rates[number] = count / (now_s - begun_s)

    # Daemons, since they wait for ever if this thread is interrupted before all have begun.
    threads = [threading.Thread(target=repeat, args=(number,), daemon=True) for number in range(1, len(calls))]
    for thread in threads:
        thread.start()
    repeat(0)
    for thread in threads:
        thread.join()
    return rates


def side_by_side(compute: Call, copies: Sequence[Call], *, rates_of: Rates = calls_per_s) -> SideBySide:
    """Time the computation of an expert, and a copy of one over each link, alone and concurrently.

    Threads take turns as those of a real run do. Windows in which the calls run alone and concurrently alternate, so
    that other load on the machine affects both; medians count.
    """
    turn_s = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    computing, copying, links = [], [], []
    try:
        for _ in range(_WINDOWS):
            (compute_alone,), (copy_alone,) = rates_of([compute]), rates_of(copies[:1])
            compute_beside, copy_beside = rates_of([compute, copies[0]])
            computing.append(compute_alone / compute_beside)
            copying.append(copy_alone / copy_beside)
            links.append(sum(rates_of(copies)) / copy_alone if len(copies) > 1 else 1.0)
    finally:
        sys.setswitchinterval(turn_s)
    slower = Contention(
        compute_slowdown=max(1.0, median(computing)),
        copy_slowdown=max(1.0, median(copying)),
    )
    return SideBySide(slower, max(1.0, median(links)))
