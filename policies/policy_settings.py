"""Settings of policies and evictors: declared by the parameters of their factory, given as text.

A factory is the function or class that makes a policy or evictor. The annotation of a parameter decides how its text
is read:

    annotation          text
    ----------          ----
    bool                true, false
    int, float          a whole number, a finite number
    str                 as it is
    Literal[...]        one of its strings or whole numbers
    int | Literal[...]  a whole number, or one of its strings; a float likewise
    X | None            as X; `none` is None

A parameter without annotation has the type of its default, if that is one of the first four. Positional-only
parameters, `*args` and `**kwargs` are not settings and receive nothing: a misspelt setting would vanish in them. A text
cannot contain a comma, or a plus before a letter.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from common.errors import PolicyCodeError, UnknownNameError, UserError, either, one_line, unknown

_WANTED = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
UNDERSTOOD = "bool, int, float, str, Literal of strings or whole numbers, a number | Literal, and each of these | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A parameter of a factory that a user may set."""

    kind: type | None  # bool, int, float or str; None: one of the choices
    choices: tuple[str | int, ...] = ()  # in place of a value of the kind
    nullable: bool = False  # whether `none` may be given
    default: object = inspect.Parameter.empty

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty

    def read(self, text: str, where: str) -> object:
        """The value that a text stands for; if it does not fit, a `UserError` that begins with `where`."""
        if self.nullable and text.lower() == "none":
            return None
        try:
            return self._value(text)
        except (KeyError, ValueError):
            raise UserError(f"{where}: must be {self._wanted()}, not {text!r}{self._hint(text)}") from None

    def _value(self, text: str) -> object:
        choices = {str(choice): choice for choice in self.choices}
        if self.kind is None or text in choices:
            return choices[text]
        if self.kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value: object = self.kind(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(text)
        return value

    def _wanted(self) -> str:
        words = [*map(str, self.choices), *["none"] * self.nullable]
        return either(words if self.kind is None else [_WANTED[self.kind], *words])

    def _hint(self, text: str) -> str:
        near = get_close_matches(text, map(str, self.choices), n=1)
        return f"; did you mean {near[0]!r}?" if near else ""


def settings_of(factory: Callable[..., object], what: str) -> dict[str, Setting]:
    """The settings of a factory by name; each `UserError` begins with `what` it makes, such as `policy mine:again`."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise UserError(f"{what}: its settings cannot be read: {one_line(error)}") from error
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = _globals_of(factory)
    return {name: _declared(each, known, what) for name, each in parameters.items() if each.kind in named}


def called(factory: Callable[..., Any], kind: str, part: str) -> Any:
    """Call the factory of a policy or evictor (the `kind`) with the settings in `NAME,setting=value,…`."""
    name, *words = part.split(",")
    what, where = f"{kind} {name}", f"{kind} {part!r}"
    known = settings_of(factory, what)
    values: dict[str, object] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"{where}: must be KEY=VALUE, not {word!r}")
        if not known:
            raise UserError(f"{what} has no settings; remove {key!r}")
        if key not in known:
            raise UnknownNameError(f"{what}: {unknown('setting', key, known)}")
        if key in values:
            raise UserError(f"{where}: {key}: is set twice")
        values[key] = known[key].read(text, f"{where}: {key}")
    missing = [repr(key) for key, setting in known.items() if setting.required and key not in values]
    if missing:
        raise UserError(f"{what} needs the setting{'s' * (len(missing) > 1)} {', '.join(missing)}")
    try:
        return factory(**values)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a factory from outside may raise
        raised = type(error).__name__ + f": {one_line(error)}" * bool(str(error))
        raise PolicyCodeError(f"{what} cannot be made: {raised}") from error


def _globals_of(factory: Callable[..., object]) -> dict[str, Any]:
    """The names that annotations of the factory's parameters may use."""
    while isinstance(factory, partial):
        factory = factory.func
    function = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    return getattr(inspect.unwrap(function), "__globals__", {})


def _declared(parameter: inspect.Parameter, known: dict[str, Any], what: str) -> Setting:
    name, default = parameter.name, parameter.default
    where = f"{what}: setting {name!r}"
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        annotation = type(default)
        if annotation not in _WANTED:
            raise UserError(f"{where} needs an annotation, for example {name}: int; supported are {UNDERSTOOD}")
    try:
        holder = SimpleNamespace(__annotations__={name: annotation})
        hint = get_type_hints(holder, globalns=known, include_extras=True)[name]
    except (Exception, SystemExit) as error:  # the text of an annotation is code
        raise UserError(f"{where} has an annotation that cannot be resolved: {one_line(error)}") from error
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [option for option in options if option is not NoneType]
    nullable = NoneType in options
    words = [option for option in kinds if get_origin(option) is Literal]
    plain = [option for option in kinds if option in list(_WANTED)]
    choices = get_args(words[0]) if words else ()
    if len(kinds) == 1 and plain:
        return Setting(kind=plain[0], nullable=nullable, default=default)
    if len(kinds) == 1 and words and all(type(choice) in (str, int) for choice in choices):
        return Setting(kind=None, choices=choices, nullable=nullable, default=default)
    if len(kinds) == 2 and words and plain in ([int], [float]) and all(type(choice) is str for choice in choices):
        return Setting(kind=plain[0], choices=choices, nullable=nullable, default=default)
    shown = " ".join(inspect.formatannotation(hint).split()).removeprefix("typing.")
    raise UserError(f"{where} has the annotation {shown}; supported are {UNDERSTOOD}")
