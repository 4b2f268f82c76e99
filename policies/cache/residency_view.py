"""What policies see of the expert cache."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np

from policies.cache.device import Device
from policies.cache.residency import COPYING, RESIDENT, Residency
from policies.types import Bool, Int

Array = TypeVar("Array", Bool, Int)


class CacheView:
    """The `ResidencyView` of an expert cache; it is valid as long as the cache lives.

    `lock` gives what guards the cache at the moment: a policy may look from a thread of its own.
    """

    def __init__(
        self, residency: Residency, devices: Sequence[Device], lock: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self._shape = residency.layers, residency.experts
        # Live [L, J], of which only copies are given away.
        self._where = np.frombuffer(residency.where, np.uint8).reshape(self._shape)
        self._planned = np.frombuffer(residency.planned, np.uint8).reshape(self._shape)
        self._devices = devices
        self._lock = lock

    @property
    def resident(self) -> Bool:
        """`[L, J]`: complete on their GPU."""
        with self._lock():
            return _sealed(self._where == RESIDENT)

    @property
    def copying(self) -> Bool:
        """`[L, J]`: begun and not complete, between two chunks too."""
        with self._lock():
            return _sealed(self._where == COPYING)

    @property
    def planned(self) -> Bool:
        """`[L, J]`: held by the plan of their layer, present or not."""
        with self._lock():
            return _sealed(self._planned != 0)

    @property
    def queued_bytes(self) -> Int:
        """`[G]` int64: what `Device.queued_bytes` says of each link."""
        with self._lock():
            return _sealed(np.array([device.queued_bytes for device in self._devices], np.int64))


def _sealed(array: Array) -> Array:
    array.flags.writeable = False
    return array
