"""How `python -m traces` and its sisters call their commands."""

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from common.errors import UserError


class Command(NamedTuple):
    """A module with `add_arguments(parser)` and `run(args)`, imported only when its command is called."""

    module: str
    help: str
    example: str


def add_writing_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to do about what stands where a trace is to be written."""
    parser.add_argument("--restart", action="store_true", help="throw away what an interrupted run has left")
    parser.add_argument("--overwrite", action="store_true", help="replace a trace that is there")


def call(program: str, description: str, commands: Mapping[str, Command], argv: Sequence[str] | None) -> int:
    """Run a command; the exit status is 2 for a mistake of the user, told in one line, and 130 for an interruption."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in commands.items():
        one = parsers.add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            epilog=f"example: python -m {program} {command.example}",
        )
        if argv[:1] == [name]:
            importlib.import_module(command.module).add_arguments(one)
    args = parser.parse_args(argv)
    try:
        status: int | None = importlib.import_module(commands[args.command].module).run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains as it ends
        return 0
    return status or 0
