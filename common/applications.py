"""The command lines `finemoe PACKAGE COMMAND`: one cyclopts application per package.

A command is a function in a file of `cli/`. Its parameters are the options, its docstring is the help. A library's
settings are a frozen dataclass, which the function takes as one parameter:

    def collect(settings: Annotated[CollectSettings, FLAT], *, json: bool = False) -> None:

`under(GROUP)` instead of `FLAT` puts the fields under a heading of the help. Lists of numbers may be written with
commas. A repeated option replaces its earlier value, or adds to a list.

Errors of libraries name fields. Only this module replaces a field by its option: that of a `FieldError`, and every
field in backticks in a message.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import (
    App,
    Argument,
    ArgumentCollection,
    CoercionError,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from common.errors import FieldError, UserError, either, has_half_pair, unknown
from common.listed_command import Command

FLAT = Parameter(name="*")  # the fields of a dataclass as options of the command itself

# Headings that commands share.
MODEL = Group("Model", sort_key=10)
PROMPTS = Group("Prompts", sort_key=20)
OUTPUT = Group("Output", sort_key=90)

OVERWRITE = Parameter(group=OUTPUT, help="Replace existing outputs; other files and folders stay as they are.")
OVERWRITE_NAMES = Parameter(
    group=OUTPUT, help="Replace existing files that have the name of an output, whoever wrote them."
)


def under(group: Group) -> Parameter:
    """As `FLAT`, with the options under the heading of the group."""
    return Parameter(name="*", group=group)


def application(
    program: str,
    description: str,
    commands: Mapping[str, Command],
    *,
    example: str = "",
    words: Sequence[str] = (),
    nested: bool = False,
    version: Callable[[], str] | None = None,
) -> App:
    """The application that is called by `program`, for example `finemoe sim` or `finemoe sim store`.

    The module of a command is imported only when the `words` call it. An application that is `nested` is itself a
    command, and shows only the last word of its name.
    """
    app = App(
        name=program.split()[-1] if nested else program,
        help=description,
        help_epilogue=_example(program, example),
        version=version,
        version_flags=["--version"] if version else [],
        default_parameter=Parameter(negative=(), show_default=_default, allow_repeating=True),
        config=_checked_tokens,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for place, (name, command) in enumerate(commands.items()):
        own = {"help_epilogue": epilogue} if (epilogue := _example(program, command.example)) else {}
        if name not in words:  # the called command shows its own docstring
            own["help"] = command.help
        app.command(command.function, name=name, sort_key=place, **own)
    return app


def _example(program: str, words: str) -> str | None:
    return f"Example: {program} {words}" if words else None


def run(
    program: str,
    description: str,
    commands: Mapping[str, Command],
    words: Sequence[str],
    *,
    version: Callable[[], str] | None = None,
) -> int:
    """Run the command that the words call; its exit status. Mistakes are `UserError`s that speak of options."""
    for word in words:
        if has_half_pair(word):  # an undecodable byte
            raise UserError(f"{word!a} is not valid UTF-8")
    app = application(program, description, commands, words=words[:1], version=version)
    try:
        with _own_help(app, commands, words):
            status = app(words, exit_on_error=False, print_error=False)
    except FieldError as error:
        raise UserError(f"{option(error.field)}: {_spelled(error.problem, app, words)}") from error
    except UserError as error:
        raise UserError(_spelled(str(error), app, words)) from error
    except CycloptsError as error:
        raise UserError(_message(error)) from error
    return status if isinstance(status, int) else 0


@contextmanager
def _own_help(app: App, commands: Mapping[str, Command], words: Sequence[str]) -> Iterator[None]:
    """A subcommand that is called shows its docstring, not its line in the list."""
    if len(words) < 2 or words[0] not in commands or words[1].startswith("-") or words[1] not in app[words[0]]:
        yield
        return
    command = app[words[0]][words[1]]
    line, command.help = command.help, None
    try:
        yield
    finally:
        command.help = line


def option(field: str) -> str:
    """The option of a field: `--cache-gb` for `cache.gb`."""
    return "--" + field.replace(".", "-").replace("_", "-")


def _options(app: App, words: Sequence[str]) -> set[str]:
    """The options of the command that the words call."""
    command = app.parse_commands(words)[1][-1]
    return {name for argument in command.assemble_argument_collection() for name in argument.names}


def _spelled(text: str, app: App, words: Sequence[str]) -> str:
    """The text with fields in backticks as options: "give `sample`" becomes "give --sample" if the command has it."""

    def as_option(found: re.Match[str]) -> str:
        return option(found[1]) if option(found[1]) in known else found[0]

    field = re.compile("`([a-z][a-z0-9_.]*)`")
    known = _options(app, words) if field.search(text) else set()  # finding all options takes most of a refusal's time
    return field.sub(as_option, text)


def _message(error: CycloptsError) -> str:
    argument = error.argument
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument: {' '.join(error.unused_tokens)}"
    if isinstance(error, UnknownCommandError) and error.unused_tokens and error.app:
        known = [name for name in error.app if not name.startswith("-")]
        return str(unknown("command", error.unused_tokens[0], known))
    if isinstance(error, UnknownOptionError):
        return _unknown_option(error.token.keyword or error.token.value, error.argument_collection)
    if isinstance(error, MissingArgumentError) and argument:
        if argument.tokens or error.keyword:
            return f"{error.keyword or _shown(argument)}: needs a value"
        for word in error.unused_tokens or ():
            if word.startswith("--") and error.app:  # the missing option may have been misspelt
                return _unknown_option(word, error.app.assemble_argument_collection())
        return f"{_shown(argument)}: is required"
    if isinstance(error, CoercionError) and argument and error.token and (wanted := _wanted(argument.hint)):
        return f"{_shown(argument)}: must be {either(wanted)}, not {error.token.value!r}"
    return " ".join(str(error).split())


def _unknown_option(word: str, arguments: ArgumentCollection) -> str:
    name = word.partition("=")[0]
    known = {each.lstrip("-"): each for argument in arguments for each in argument.names}
    near = get_close_matches(name.lstrip("-"), known, n=1)  # the dashes would make any two names alike
    return f"unknown option {name}" + "".join(f"; did you mean {known[each]}?" for each in near)


def _shown(argument: Argument) -> str:
    """The name of an argument as the help shows it: `MODEL` or `--out`."""
    return argument.name if argument.index is None else argument.name.lstrip("-").upper()


def _wanted(hint: Any) -> list[str]:
    """What a value of this type may be, in words: `a whole number`, `whole`; nothing if any text will do."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return list(map(str, arguments))
    if origin in (Annotated, tuple):
        return _wanted(arguments[0])
    if origin in (Union, UnionType):
        return [words for each in arguments for words in _wanted(each)]
    return {bool: ["true or false"], int: ["a whole number"], float: ["a number"]}.get(hint, [])


def _default(value: object) -> str | None:
    """The default shown in the help: none for switches and for unset options."""
    if value is None or value is False or value == () or is_dataclass(value):
        return None
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _checked_tokens(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Before cyclopts converts: split lists of numbers at commas, and refuse empty paths and `1.5` for a whole number.

    cyclopts would take an empty path for the current folder, and round 1.5 to 2.

    A converter would not work, since cyclopts does not pass it on to the fields of a dataclass.
    """
    for argument in arguments:
        number, listed = _innermost(argument.hint)
        if listed and number in (int, float):
            argument.tokens = [token.evolve(value=word) for token in argument.tokens for word in token.value.split(",")]
        for token in argument.tokens:
            if number is Path and not token.value:
                raise UserError(f"{argument.name}: needs a value")
            if number is int and "." in token.value:
                raise CoercionError(argument=argument, token=token, target_type=int)


def _innermost(hint: Any) -> tuple[Any, bool]:
    """The type of a single value, and whether there may be several."""
    listed = False
    while (origin := get_origin(hint)) in (Annotated, Union, UnionType, tuple):
        listed |= origin is tuple
        hint = next(each for each in get_args(hint) if each is not type(None))
    return hint, listed
