"""Texts that name a machine and change some of its figures: `rtx3090x6,host.memory_bytes_per_s=96e9,gpus=4`.

Keys are the dotted keys of a data sheet. Values are TOML values: numbers, lists, tables and quoted texts; a single word
needs no quotes. Commas inside brackets or quotes belong to the value.
"""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from common.errors import FieldError

_OPEN, _CLOSED = "[{", "]}"
_WORD = re.compile(r"[A-Za-z][\w. +-]*")
_KEY = re.compile(r"[\w-]+(\.[\w-]+)*")


def parts_of(text: str) -> tuple[str, dict[str, str]]:
    """The name or file, and the text of each value by its dotted key. A mistake raises a `FieldError` with the key."""
    name, *words = _words(text)
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = (each.strip() for each in word.partition("="))
        if not equals or not _KEY.fullmatch(key):
            raise FieldError(key or word or "after a comma", f"must be KEY=VALUE, not {word!r}")
        if key in found:
            raise FieldError(key, "is set twice")
        found[key] = value
    return name, found


def text_of(name: str, settings: dict[str, str]) -> str:
    """The text that `parts_of` splits."""
    return ",".join([name, *(f"{key}={value}" for key, value in settings.items())])


def value_of(key: str, text: str) -> Any:
    """A number, a word, a list or a table."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if _WORD.fullmatch(text):
            return text
    raise FieldError(key, f"must be a number, a word, a list or a table, not {text!r}")


def tables_of(values: dict[str, Any]) -> dict[str, Any]:
    """Nested tables as in a file, from values by dotted key; a key cannot be both a table and a single value."""
    tables: dict[str, Any] = {}
    for key, value in values.items():
        *outer, last = key.split(".")
        inner = tables
        for name in outer:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise FieldError(key, f"{name} is also set as a whole")
        if last in inner:
            raise FieldError(key, "is set both as a whole and in part")
        inner[last] = value
    return tables


def _words(text: str) -> Iterator[str]:
    """Split at commas outside brackets and quotes."""
    depth, quote, start = 0, "", 0
    for at, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in _OPEN:
            depth += 1
        elif sign in _CLOSED:
            depth -= 1
        elif sign == "," and not depth:
            yield text[start:at]
            start = at + 1
    yield text[start:]
