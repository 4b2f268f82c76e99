"""Names of policies and evictors: the parts of a name, and imports of `module:callable` from here or from outside.

A mistake is a `UserError` of one line that offers the nearest known name.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from importlib import import_module, invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from sysconfig import get_path
from types import ModuleType
from typing import Any

from common.errors import PolicyCodeError, UnknownNameError, UserError, one_line, unknown

OWN_PACKAGES = {"common", "policies", "traces", "sim", "validate"}  # whose sources are hashed elsewhere
_SOURCES = "__finemoe_lab_sources__"  # attribute of a package from outside: its sources when it was imported
_PLUS = re.compile(r"\+(?=[^\W\d])")  # between two parts; not the sign of a number


def parts_of(spec: str) -> list[str]:
    """The parts of `NAME,setting=value,…+NAME,setting=value,…`."""
    return _PLUS.split(spec)


def inside(place: str) -> Callable[..., Any]:
    """A callable of this package, named `module:callable`."""
    module, _, name = place.partition(":")
    factory: Callable[..., Any] = getattr(import_module(module), name)
    return factory


def outside(place: str, kind: str, offered: Callable[[object], bool]) -> Callable[..., object]:
    """The factory of a policy or evictor (the `kind`) in a module that is not ours, perhaps in the current directory.

    An unknown name is an error that lists the names of the module whose values are `offered`.
    A module that has been edited since it was imported is imported again, with its whole package.
    """
    module_name, _, name = place.partition(":")
    try:
        with _current_directory():
            module = _import_as_it_is_now(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _cannot_import(kind, place, error) from error
        raise UnknownNameError(
            f"{kind} {place}: no module {error.name!r} in the current folder or among installed packages"
        ) from error
    except (Exception, SystemExit) as error:  # whatever a module from outside may raise
        raise _cannot_import(kind, place, error) from error
    found: object = getattr(module, name, None)
    if found is None:
        if file := _hidden(module_name):
            which = getattr(module, "__file__", None) or "a module of Python"
            raise UserError(
                f"{kind} {place}: {module_name} is {which}, which hides {file} of the current folder; rename that file"
            )
        own = [each for each, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        public = [each for each in own if not each.startswith("_") and offered(vars(module)[each])]
        raise UnknownNameError(f"module {module_name}: {unknown(kind, name, public)}")
    if not callable(found):
        raise UserError(f"{kind} {place}: {name} is a {type(found).__name__}, not a class or function")
    return found


def sources_of(module_name: str) -> dict[str, str]:
    """SHA-256 of the sources of a module from outside, by path within its folder.

    The sources are its file or its whole package, and whatever they import from the same folder, unless packages are
    installed there.
    """
    found: dict[str, str] = {}
    installed = {Path(get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    with _current_directory():
        waiting, folder = [module_name.partition(".")[0]], None
        seen = set(waiting)
        while waiting:
            for place in _places_of(waiting.pop()):
                folder = folder or place.parent
                if place.parent != folder:
                    continue
                for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
                    source = file.read_bytes()
                    found[file.relative_to(folder).as_posix()] = sha256(source).hexdigest()
                    new = set() if folder in installed else _imported(source) - seen - OWN_PACKAGES
                    seen |= new
                    waiting += sorted(new)
    return found


def _places_of(package: str) -> list[Path]:
    """The folder of a package, or the file of a module; empty for what is built in or missing."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    places = list(spec.submodule_search_locations or [spec.origin or ""])
    return [Path(place) for place in places if Path(place).is_dir() or place.endswith(".py")]


@cache  # for a large package, parsing takes most of the time
def _imported(source: bytes) -> frozenset[str]:
    """The packages that a source imports anywhere by name."""
    try:
        statements = list(_statements(ast.parse(source)))
    except (SyntaxError, ValueError):  # reported when it is imported
        return frozenset()
    names = [alias.name for each in statements if isinstance(each, ast.Import) for alias in each.names]
    names += [each.module for each in statements if isinstance(each, ast.ImportFrom) and each.module and not each.level]
    return frozenset(name.partition(".")[0] for name in names)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements of a source at any depth. Their expressions, most of a source, import nothing."""
    found = [tree]  # a chain of a thousand `elif`s is as deep
    while found:
        node = found.pop()
        for blocks in ("body", "orelse", "finalbody", "handlers", "cases"):
            found += getattr(node, blocks, ())
        yield node


def _import_as_it_is_now(module_name: str) -> ModuleType:
    if module_name == "__main__":  # a script or notebook that is running
        return sys.modules[module_name]
    package = module_name.partition(".")[0]
    now = sources_of(module_name)
    if getattr(sys.modules.get(package), _SOURCES, now) != now:
        edited = {path.partition("/")[0].removesuffix(".py") for path in now}
        for name in [each for each in sys.modules if each.partition(".")[0] in edited]:
            spec = sys.modules.pop(name).__spec__
            if spec and spec.cached:
                Path(spec.cached).unlink(missing_ok=True)
        invalidate_caches()
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:  # without compiled code left behind: after an edit within the same second it would look valid
        module = import_module(module_name)
    finally:
        sys.dont_write_bytecode = before
    setattr(sys.modules[package], _SOURCES, now)
    return module


def _hidden(module_name: str) -> Path | None:
    """The file in the current folder that was not imported, because another module has its name."""
    package = module_name.partition(".")[0]
    file, imported = Path(f"{package}.py"), getattr(sys.modules[package], "__file__", None)
    return file if file.exists() and not (imported and file.samefile(imported)) else None


def _cannot_import(kind: str, place: str, error: BaseException) -> UserError:
    module_name = place.partition(":")[0]
    return PolicyCodeError(f"{kind} {place}: module {module_name} cannot be imported: {one_line(error)}")


@contextmanager
def _current_directory() -> Iterator[None]:
    """Make modules of the current directory importable; installed ones take precedence."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
