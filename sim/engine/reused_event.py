"""What happens at a moment, again and again: an event that is scheduled anew instead of being made anew."""

from collections.abc import Callable

import simpy
from simpy.events import NORMAL


class Event(simpy.Event):
    """An event that calls one function and can be scheduled again once it has happened."""

    def __init__(self, env: simpy.Environment, call: Callable[..., None]) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        self._call = [call]
        self._schedule = env.schedule

    def after(self, delay_s: float) -> None:
        """Happen so many seconds from now."""
        self.callbacks = self._call
        self._schedule(self, NORMAL, delay_s)
