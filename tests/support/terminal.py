"""A terminal, as far as progress bars look at it."""

import io
import sys
from functools import partial

import pytest
import tqdm


class Terminal(io.StringIO):
    """Text that is drawn; a bar begins each of its states with a carriage return."""

    def isatty(self) -> bool:
        return True

    def states(self) -> list[str]:
        return self.getvalue().split("\r")


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Stderr is a terminal from now on, on which bars are drawn although tests disable them."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.delenv("TQDM_DISABLE")
    monkeypatch.setattr(tqdm, "tqdm", partial(tqdm.tqdm, disable=False))  # which reads the variable when imported
    return screen
