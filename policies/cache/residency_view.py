"""The view of the expert cache that policies get."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np

from policies.cache.device import Device
from policies.cache.residency import COPYING, RESIDENT, Residency
from policies.types import Bool, Int

Array = TypeVar("Array", Bool, Int)


class CacheView:
    """The `ResidencyView` of an expert cache, valid as long as the cache lives.

    `lock` returns the cache's current lock, since a policy may look from another thread.
    """

    def __init__(
        self, residency: Residency, devices: Sequence[Device], lock: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self._shape = residency.layers, residency.experts
        # Live [L, J]; policies only receive copies.
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
        """`[L, J]`: begun but not complete, also between two chunks."""
        with self._lock():
            return _sealed(self._where == COPYING)

    @property
    def planned(self) -> Bool:
        """`[L, J]`: in the plan of their layer, present or not."""
        with self._lock():
            return _sealed(self._planned != 0)

    @property
    def queued_bytes(self) -> Int:
        """`[G]` int64: `Device.queued_bytes` of each link."""
        with self._lock():
            return _sealed(np.array([device.queued_bytes for device in self._devices], np.int64))


def _sealed(array: Array) -> Array:
    array.flags.writeable = False
    return array
