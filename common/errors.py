"""Errors that a user can correct, each with a message of one line."""

import difflib
import json
from collections.abc import Iterable
from pathlib import Path

from typing_extensions import override


class UserError(Exception):
    """A mistake in the user's input; its text is one line that names the file, field and value.

    Commands print the text without a traceback and exit with status 2.
    """


class FieldError(UserError):
    """A setting has an invalid value: `FIELD: PROBLEM`.

    `field` is the dotted name of a field of a settings dataclass, such as `cache.gb`. Only the command line replaces it
    by the name of the option.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem

    @override
    def __reduce__(self) -> tuple[type["FieldError"], tuple[str, str]]:
        return FieldError, (self.field, self.problem)

    def inside(self, field: str) -> "FieldError":
        """The same error, if these settings are themselves the value of `field`."""
        return FieldError(f"{field}.{self.field}", self.problem)


class UnknownNameError(UserError):
    """A name that does not exist, probably misspelt."""


class PolicyCodeError(UserError):
    """The code of a user's own policy raised an error, which is the cause of this one."""


def unknown(what: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a `name` that is not among the `known` ones; it offers the nearest."""
    return UnknownNameError(f"unknown {what} {name!r}; {nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint for a misspelt `name`: the nearest of the `known` ones, or all of them."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(options)}"


def either(words: Iterable[str]) -> str:
    """The words as alternatives: `a, b or c`."""
    return listed(words, "or")


def listed(words: Iterable[str], conjunction: str = "and") -> str:
    """The words as a list within a sentence: `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} {conjunction} {last}" if most else last


def absent(file: Path, what: str) -> str:
    """Why there is no file that is in every folder that is `what`: the folder is something else, or does not exist."""
    folder = file.parent
    return f"{file} is missing; {folder} is not {what}" if folder.exists() else f"{folder}: does not exist"


HALF_PAIR = "half a surrogate pair, which is not a character"


def has_half_pair(text: str) -> bool:
    """Whether the text has a lone surrogate, as from JSON or an undecodable name, so that it is not valid UTF-8."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def one_line(error: BaseException) -> str:
    """The message of the error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def not_json(error: ValueError | RecursionError) -> str:
    """What is wrong with one value that is not JSON, for a line that names its place."""
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error.msg} at character {error.colno}"
    return f"is not JSON: {one_line(error)}"


def reason(error: BaseException) -> str:
    """The message of the error, for a line that names the file: without the system's error number and file name."""
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"  # `error.start` counts from the block that was read
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at line {error.lineno}, character {error.colno}"
    return (isinstance(error, OSError) and error.strerror) or one_line(error)
