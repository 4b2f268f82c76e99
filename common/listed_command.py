"""A command as its program lists it, before anything of it is imported."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from common.interruptions import Resumes


class IfGiven(NamedTuple):
    """A command resumes if this option, or else this environment variable, is given: it names where runs are kept."""

    option: str
    variable: str

    def given(self, words: Sequence[str]) -> bool:
        """Whether the words of a command, or the environment, give it."""
        return any(word.partition("=")[0] == self.option for word in words) or bool(os.environ.get(self.variable))


class Command(NamedTuple):
    """A command: its function as `module:function`, its line in the list, and an example.

    For a command with subcommands, `function` is `module:app`: an `application`, which shows its own example.
    """

    function: str
    help: str
    example: str = ""
    resumes: Resumes | IfGiven = "never"
    """When the same command resumes after an interruption; "once kept": once a part of a trace is kept."""
