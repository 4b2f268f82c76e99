"""Strict reading of TOML files: an unknown key, a missing key or a wrong type is an error that names the key."""

import tomllib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import tomli_w

from common.errors import UserError, unknown
from common.files import replacing


class Section:
    """A table of a TOML file. `name` is its dotted key, empty for the file itself; a `UserError` names the key."""

    def __init__(self, values: Mapping[str, Any], known: Set[str], name: str = "") -> None:
        self._values = values
        self._name = name
        for key in values:
            if key not in known:
                raise unknown("key", self.key(key), map(self.key, known))

    def key(self, key: str) -> str:
        """The dotted key of `key` in this section."""
        return f"{self._name}.{key}" if self._name else key

    def section(self, key: str, known: Set[str]) -> "Section":
        """A table within this one."""
        return Section(self._table(key), known, self.key(key))

    def scalars(self, key: str) -> dict[str, str | int | float]:
        """A table within this one, with strings and numbers under any keys."""
        table = self._table(key)
        for name, value in table.items():
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise UserError(f"{self.key(key)}.{name}: must be a string or a number, not {value!r}")
        return table

    def text(self, key: str) -> str:
        """A string."""
        value = self._get(key)
        if not isinstance(value, str):
            raise UserError(f"{self.key(key)}: must be a string, not {value!r}")
        return value

    def whole(self, key: str) -> int:
        """A whole number."""
        return _whole(self.key(key), self._get(key))

    def wholes(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        return tuple(_whole(self.key(key), value) for value in self._list(key))

    def number(self, key: str) -> float:
        """A number, whole or not."""
        return _number(self.key(key), self._get(key))

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers."""
        return tuple(_number(self.key(key), value) for value in self._list(key))

    def _table(self, key: str) -> dict[str, Any]:
        value = self._get(key)
        if not isinstance(value, dict):
            raise UserError(f"{self.key(key)}: must be a table, not {value!r}")
        return value

    def _list(self, key: str) -> list[Any]:
        value = self._get(key)
        if not isinstance(value, list):
            raise UserError(f"{self.key(key)}: must be a list, not {value!r}")
        return value

    def _get(self, key: str) -> Any:
        if key not in self._values:
            raise UserError(f"{self.key(key)}: is required")
        return self._values[key]


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; a missing or broken file is a `UserError`."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not TOML: {str(error).splitlines()[0]}") from error


def toml_text(data: Mapping[str, Any]) -> str:
    """The text that `write_toml` writes."""
    return tomli_w.dumps(data)


def write_toml(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` to a file, replacing an existing one; it appears whole or not at all."""
    with replacing(path, "the file") as partial:
        partial.write_bytes(toml_text(data).encode())


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{key}: must be a whole number, not {value!r}")
    return value


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{key}: must be a number, not {value!r}")
    try:
        return float(value)
    except OverflowError as error:
        raise UserError(f"{key}: must be a number that a 64-bit float can represent, not {value!r}") from error
