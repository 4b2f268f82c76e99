"""How policies and evictors are named: tables of `module:callable`, modules from outside, settings as text.

Mistakes are a `UserError` of one line that names the nearest known name.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib import import_module, invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from common.errors import UserError, one_line, unknown

_SOURCES = "__finemoe_lab_sources__"  # attribute of a package from outside: what its sources were when it was imported
_PLUS = re.compile(r"\+(?=[A-Za-z])")  # between two parts; not the sign of a number


def parts_of(spec: str) -> list[str]:
    """The parts of `NAME,setting=value,…+NAME,setting=value,…`."""
    return _PLUS.split(spec)


def settings_of(factory: Callable[..., object]) -> dict[str, object]:
    """The settings that a factory takes, with their defaults."""
    kinds = inspect.Parameter
    return {
        name: each.default
        for name, each in inspect.signature(factory).parameters.items()
        if each.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    }


def called(factory: Callable[..., Any], kind: str, part: str) -> Any:
    """What the factory of a policy or evictor (the `kind`) makes of `NAME,setting=value,…`."""
    name, *words = part.split(",")
    what = f"{kind} {name}"
    known = settings_of(factory)
    settings: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{kind} {part!r}: {word!r} is not of the form setting=value")
        if key not in known:
            raise (
                unknown(f"setting of {what}", key, known)
                if known
                else UserError(f"{what} has no settings, so not {key!r} either")
            )
        settings[key] = _parse(value, known[key], f"{kind} {part!r}: {key}")
    missing = [key for key, default in known.items() if default is inspect.Parameter.empty and key not in settings]
    if missing:
        raise UserError(f"{what} needs the setting {missing[0]!r}")
    return factory(**settings)


def _parse(text: str, default: object, where: str) -> object:
    """`text` as a value of the type of `default`; as text where the default has no such type."""
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float):
            value: object = kind(text)
            return value
        return text
    except (KeyError, ValueError):
        raise UserError(f"{where}: {text!r} is not a {kind.__name__}") from None


def inside(place: str) -> Callable[..., Any]:
    """A callable of this package, named `module:callable`."""
    module, _, name = place.partition(":")
    factory: Callable[..., Any] = getattr(import_module(module), name)
    return factory


def outside(place: str) -> Callable[..., object]:
    """A callable of a module that is not ours; the module may lie in the current directory.

    A module that has been edited since it was imported is imported anew, with all of its package.
    """
    module_name, _, name = place.partition(":")
    try:
        with _current_directory():
            module = _import_as_it_is_now(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"policy {place}: module {module_name} cannot be imported: {one_line(error)}") from error
        raise UserError(f"policy {place}: there is no module {error.name!r}, here or installed") from error
    except Exception as error:  # whatever a module from outside may raise
        raise UserError(f"policy {place}: module {module_name} cannot be imported: {one_line(error)}") from error
    found: object = getattr(module, name, None)
    if found is None:
        public = [each for each in vars(module) if not each.startswith("_")]
        raise unknown(f"policy in module {module_name}", name, public)
    if not callable(found):
        raise UserError(f"policy {place}: {name} is a {type(found).__name__}, not a class or function")
    return found


def sources_of(module_name: str) -> dict[str, str]:
    """SHA-256 of every source of the package that a module from outside is in, by path from the package's folder on."""
    found = {}
    with _current_directory():
        spec = find_spec(module_name.partition(".")[0])
    places = [] if spec is None else list(spec.submodule_search_locations or filter(None, [spec.origin]))
    for place in map(Path, places):
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            found[file.relative_to(place.parent).as_posix()] = sha256(file.read_bytes()).hexdigest()
    return found


def _import_as_it_is_now(module_name: str) -> ModuleType:
    package = module_name.partition(".")[0]
    now = sources_of(module_name)
    if getattr(sys.modules.get(package), _SOURCES, now) != now:
        for name in [each for each in sys.modules if each == package or each.startswith(f"{package}.")]:
            spec = sys.modules.pop(name).__spec__
            if spec and spec.cached:  # an edit within the same second leaves compiled code that looks valid
                Path(spec.cached).unlink(missing_ok=True)
        invalidate_caches()
    module = import_module(module_name)
    setattr(sys.modules[package], _SOURCES, now)
    return module


@contextmanager
def _current_directory() -> Iterator[None]:
    """Modules of the current directory can be imported, after all that is installed."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
