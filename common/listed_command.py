"""A command as its program lists it, before anything of it is imported."""

from typing import Literal, NamedTuple


class Command(NamedTuple):
    """A command: its function as `module:function`, its line in the list, and an example.

    For a command with subcommands, `function` is `module:app`: an `application`, which shows its own example.
    """

    function: str
    help: str
    example: str = ""
    resumes: Literal["always", "with a store", "from a part on", "never"] = "never"
    """When the same command, after an interruption, keeps what was finished; a part is one of a trace."""
