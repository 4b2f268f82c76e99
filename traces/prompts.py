"""Files of prompts: JSON Lines with a field `prompt`, or plain text with one prompt per line."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from policies.errors import UserError

JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt and where it came from."""

    text: str
    source: str
    line: int  # in its file, from 1

    @property
    def sha256(self) -> str:
        """Of the text in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_prompts(path: Path, *, limit: int | None = None, source: str | None = None) -> list[Prompt]:
    """The first `limit` prompts of a file, in its order; blank lines are skipped.

    A name that ends in `.jsonl` or `.ndjson` is JSON Lines: an object per line with `prompt` and perhaps `source`; all
    else is plain text. `source` names the prompts that do not say theirs, by default after the file. What is wrong is a
    `UserError` that names file, line and field; a file without prompts is one too.
    """
    default = source or path.stem
    parse = _from_json if path.suffix.lower() in JSON_LINES else _from_text
    prompts: list[Prompt] = []
    for number, line in _lines(path):
        if limit is not None and len(prompts) == limit:
            break
        prompts.append(parse(line, f"{path}: line {number}", number, default))
    if not prompts:
        raise UserError(f"{path}: holds no prompt")
    return prompts


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _from_text(line: str, place: str, number: int, source: str) -> Prompt:
    return Prompt(text=line, source=source, line=number)


def _from_json(line: str, place: str, number: int, source: str) -> Prompt:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{place}: must be a JSON object, value {_short(data)}")
    if "prompt" not in data:
        raise UserError(f"{place}, field prompt: is missing")
    text, source = data["prompt"], data.get("source") or source
    for field, value in (("prompt", text), ("source", source)):
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{place}, field {field}: must be text that is not empty, value {_short(value)}")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise UserError(f"{place}, field {field}: holds half a surrogate pair, which is no character")
    return Prompt(text=text, source=source, line=number)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
