"""An event that is scheduled again and again, because making a new one each time is slower."""

from collections.abc import Callable

import simpy
from simpy.events import NORMAL


class Event(simpy.Event):
    """An event that calls one function, and can be scheduled again after it has happened."""

    def __init__(self, env: simpy.Environment, call: Callable[..., None]) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        self._call = [call]
        self._schedule = env.schedule

    def after(self, delay_s: float) -> None:
        """Schedule the event so many seconds from now."""
        self.callbacks = self._call
        self._schedule(self, NORMAL, delay_s)
