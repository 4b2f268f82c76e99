"""Read files of prompts row by row."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError, not_json, reason

JSON = (".json", ".jsonl", ".ndjson")

_CHUNK = 1 << 20  # characters read at once
_LARGEST = 64 << 20  # largest item of a JSON array, in characters

_SEPARATORS = re.compile(r"[\s,]*")


class Row(NamedTuple):
    """An object that contains a prompt, its number from 1, and its place for error messages."""

    number: int
    place: str
    data: Mapping[str, Any]


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a file, without blank lines; raises `UserError` with file and line.

    `.jsonl` and `.ndjson` files are JSON Lines, one object per line; `.json` files may also be one array of objects.
    All others are plain text with one prompt per line. Files may be larger than memory. Devices and pipes are refused,
    because they may never end.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is not a regular file")
        with path.open(encoding="utf-8-sig") as file:
            if path.suffix.lower() not in JSON:
                yield from (Row(number, place, {"prompt": line}) for number, place, line in _lines(path, file))
                return
            head = file.read(_CHUNK) if path.suffix.lower() == ".json" else ""
            if head.lstrip().startswith("["):
                yield from array_rows(chain([head], iter(lambda: file.read(_CHUNK), "")), str(path))
                return
            file.seek(0)
            for number, place, line in _lines(path, file):
                yield Row(number, place, _object(line, place))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is {reason(error)}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def array_rows(pieces: Iterable[str], where: str) -> Iterator[Row]:
    """The objects of a JSON array that arrives in pieces, each yielded as soon as it is complete."""
    decoder = json.JSONDecoder()
    rest, number, opened = "", 0, False
    for chunk in _chunks(pieces):
        rest += chunk
        at = 0
        if not opened:
            start = rest.lstrip()
            if start and start[0] != "[":
                raise UserError(f"{where}: must be a JSON array")
            at, opened = len(rest) - len(start) + 1, bool(start)
        while (at := _past_separators(rest, at)) < len(rest):
            if rest[at] == "]":
                return
            place = f"{where}: item {number + 1}"
            if rest[at] != "{":
                raise UserError(f"{place}: must be a JSON object, not {shortened(rest[at : at + 40])}")
            try:
                data, at = decoder.raw_decode(rest, at)
            except json.JSONDecodeError as error:  # invalid, or incomplete so far
                if len(rest) - at > _LARGEST:
                    raise UserError(f"{place}: is not JSON: {error.msg} at character {error.pos - at + 1}") from None
                break
            number += 1
            yield Row(number, place, data)
        rest = rest[at:]
    raise UserError(f"{where}: item {number + 1}: is not JSON, or the file ends within it")


def shortened(value: object, width: int = 40) -> str:
    """The value as JSON, cut to `width` characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= width else text[: width - 3] + "..."


def _lines(path: Path, file: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield number, f"{path}: line {number}", line.rstrip("\n")


def _object(line: str, place: str) -> Mapping[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: {not_json(error)}") from None
    if not isinstance(data, dict):
        raise UserError(f"{place}: must be a JSON object, not {shortened(data)}")
    return data


def _chunks(pieces: Iterable[str]) -> Iterator[str]:
    """Join pieces to chunks of `_CHUNK` characters, since an incomplete object is parsed again with every chunk."""
    some: list[str] = []
    length = 0
    for piece in pieces:
        some.append(piece)
        length += len(piece)
        if length >= _CHUNK:
            yield "".join(some)
            some, length = [], 0
    yield "".join(some)


def _past_separators(text: str, at: int) -> int:
    found = _SEPARATORS.match(text, at)
    assert found is not None  # may match the empty string
    return found.end()
