"""Mistakes that a user can mend, said in one line."""

import difflib
from collections.abc import Iterable

from typing_extensions import override


class UserError(Exception):
    """A mistake in what the user gave; its text is one line that names the file, field and value.

    The commands print the text without a traceback and exit with status 2.
    """


class FieldError(UserError):
    """A setting has a value that it cannot have: `FIELD: PROBLEM`.

    `field` is the dotted name of a field of a settings dataclass, such as `cache.gb`. The command line prints its own
    name for the field in place of it, and nothing else does.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem

    @override
    def __reduce__(self) -> tuple[type["FieldError"], tuple[str, str]]:
        return FieldError, (self.field, self.problem)

    def inside(self, field: str) -> "FieldError":
        """The same mistake, where the settings are themselves the value of `field`."""
        return FieldError(f"{field}.{self.field}", self.problem)


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a `name` that is not among the `known` ones; it offers the nearest."""
    return UserError(f"unknown {what} {name!r}; {nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint for a misspelt `name`: the nearest of the `known` ones, or all of them."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(options)}"


def one_line(error: BaseException) -> str:
    """What the error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
