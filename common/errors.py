"""Mistakes that a user can mend, told in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave; its text is one line that names the file, field and value.

    The commands print the text without a traceback and exit with status 2.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a `name` that is not among the `known` ones; it offers the nearest."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(options)}"
    return UserError(f"unknown {what} {name!r}; {hint}")


def one_line(error: BaseException) -> str:
    """What the error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
