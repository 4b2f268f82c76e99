"""Settings as frozen dataclasses: checked by their annotations, and converted to and from plain data as in TOML.

A field is declared once, with its type, its bounds and its docstring:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Settings:
        batch_size: Annotated[int, Ge(1)] = 1
        '''Requests that run together.'''

        def __post_init__(self) -> None:
            check(self)

Supported types are `bool`, `int`, `float`, `str`, `Path`, `Literal`, a number or a `Literal` of words, other settings,
`X | None`, `tuple[X, ...]` and `Mapping[str, str]`. Supported bounds are `Ge`, `Gt`, `Le`, `Lt` and `Interval` of
`annotated_types`, `OrInfinite` for a number and `Suffix` for a path. Every mistake is a `FieldError`.
"""

import ast
import inspect
import math
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt

from common.errors import FieldError, either, nearest

LARGEST = 1 << 63  # whole numbers must be below it, as in TOML

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Suffix:
    """A bound of a path: the endings its name may have, `Annotated[Path, Suffix(".png", ".svg")]`."""

    known: tuple[str, ...]

    def __init__(self, *known: str) -> None:
        object.__setattr__(self, "known", known)


def check_suffix(field: str, path: Path | None, *known: str) -> None:
    """Raise a `FieldError` unless the name ends in one of the known endings; None is no name."""
    if path is not None and path.suffix not in known:
        raise FieldError(field, f"must be a name that ends in {either(known)}, not {path}")


@dataclass(frozen=True, slots=True)
class OrInfinite:
    """A bound that also admits infinity for a number, `Annotated[float, Gt(0), OrInfinite()]`."""


_BOUNDS = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}
_COMPARE = {
    "ge": lambda value, bound: value >= bound,
    "gt": lambda value, bound: value > bound,
    "le": lambda value, bound: value <= bound,
    "lt": lambda value, bound: value < bound,
}


def check(settings: Any) -> None:
    """Check and convert every field by its annotation; call it at the end of `__post_init__`.

    A `str` becomes a `Path`, a whole number a `float` and a list a `tuple` if the field is declared so.
    """
    kind: Any = type(settings)
    for name, hint in _hints(kind).items():
        object.__setattr__(settings, name, _converted(getattr(settings, name), hint, name))


def from_data(kind: type[S], data: Mapping[str, Any]) -> S:
    """Make settings from plain data, with a mapping for each nested one; an unknown key is an error."""
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise FieldError(str(key), f"is not a setting; {nearest(str(key), known)}")
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in data and field.default is MISSING and field.default_factory is MISSING:
            raise FieldError(field.name, "is required")
    return kind(**data)


def to_data(settings: Any, *, defaults: bool = True) -> dict[str, Any]:
    """Plain data from which `from_data` makes equal settings; leaves out `None`, and defaults on request."""
    answer: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if value is not None and (defaults or value != default):
            answer[field.name] = _plain(value, defaults)
    return answer


@cache
def descriptions(kind: Any) -> dict[str, str]:
    """The docstring below each field, by field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for declared, text_node in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(declared, ast.AnnAssign)
            and isinstance(text_node, ast.Expr)
            and isinstance(text_node.value, ast.Constant)
        ):
            assert isinstance(declared.target, ast.Name)
            found[declared.target.id] = " ".join(str(text_node.value.value).split())
    return found


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def _plain(value: Any, defaults: bool) -> Any:
    if is_dataclass(value):
        return to_data(value, defaults=defaults)
    if isinstance(value, tuple):
        return [_plain(each, defaults) for each in value]
    if isinstance(value, Mapping):
        return dict(value)
    return str(value) if isinstance(value, Path) else value


def _converted(value: Any, hint: Any, field: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if OrInfinite() in arguments[1:] and value == math.inf:
            return math.inf
        value = _converted(value, arguments[0], field)
        _check_bounds(value, arguments[1:], field)
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kind, *words = (each for each in arguments if each is not type(None))
        return _number_or_word(value, kind, words[0], field) if words else _converted(value, kind, field)
    if origin is Literal:
        if value not in arguments:
            raise FieldError(field, f"must be {either(list(map(str, arguments)))}, not {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise FieldError(field, f"must be a list, not {value!r}")
        return tuple(_converted(each, arguments[0], field) for each in value)
    if origin is Mapping:
        return _texts(value, field)
    if is_dataclass(hint):
        return _nested(value, hint, field)
    return _scalar(value, hint, field)


def _number_or_word(value: Any, number: Any, words: Any, field: str) -> Any:
    known = get_args(words)
    if not isinstance(value, str):
        return _converted(value, number, field)
    if value not in known:
        raise FieldError(field, f"must be a number or {either(known)}, not {value!r}")
    return value


def _nested(value: Any, hint: Any, field: str) -> Any:
    if isinstance(value, hint):
        return value
    if not isinstance(value, Mapping):
        raise FieldError(field, f"must be a table or a {hint.__name__}, not {value!r}")
    try:
        return from_data(hint, value)
    except FieldError as error:
        raise error.inside(field) from None


def _texts(value: Any, field: str) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise FieldError(field, f"must be a table of strings, not {value!r}")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise FieldError(f"{field}.{key}", f"must be a string, not {text!r}")
    return dict(value)


def _scalar(value: Any, kind: type, field: str) -> Any:
    if kind is bool or isinstance(value, bool):
        fits = kind is bool and isinstance(value, bool)
        converted = value
    elif kind is float:
        fits = isinstance(value, Real)
        converted = _finite(value, field) if fits else value
    elif kind is int:
        fits = isinstance(value, Integral)
        converted = _representable(int(value), field) if fits else value
    else:
        fits = isinstance(value, str | Path if kind is Path else kind)
        converted = Path(value) if fits and kind is Path else value
    if not fits:
        raise FieldError(field, f"must be {_NAMES[kind]}, not {value!r}")
    return converted


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path", str: "a string"}


def _representable(value: int, field: str) -> int:
    if abs(value) >= LARGEST:
        raise FieldError(field, f"must be below 2^63, not {value}")
    return value


def _finite(value: Any, field: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FieldError(field, f"must be a finite number, not {value}")
    return number


def _check_bounds(value: Any, metadata: tuple[Any, ...], field: str) -> None:
    """Raise a `FieldError` unless the value, or each value of a tuple, is within the bounds."""
    bounds = list(_bounds(metadata))
    known = [suffix for each in metadata if isinstance(each, Suffix) for suffix in each.known]
    for each in value if isinstance(value, tuple) else (value,):
        if known:
            check_suffix(field, each, *known)
        if each is not None and not all(_COMPARE[rule](each, bound) for rule, _, bound in bounds):
            wanted = " and ".join(f"{word} {bound}" for _, word, bound in bounds)
            raise FieldError(field, f"must be {wanted}, not {each}")


def _bounds(metadata: tuple[Any, ...]) -> Iterator[tuple[str, str, Any]]:
    for each in metadata:
        for one in each if isinstance(each, Interval) else (each,):
            if type(one) in _BOUNDS:
                rule, word = _BOUNDS[type(one)]
                yield rule, word, getattr(one, rule)
