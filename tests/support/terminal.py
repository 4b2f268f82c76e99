"""A terminal, as far as progress bars look at it."""

import io


class Terminal(io.StringIO):
    """Text that is drawn; a bar begins each of its states with a carriage return."""

    def isatty(self) -> bool:
        return True

    def states(self) -> list[str]:
        return self.getvalue().split("\r")
