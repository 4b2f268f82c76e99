"""Prompts, and how to find them in rows of files and data sets."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import HALF_PAIR, UserError, has_half_pair
from traces.prompts.prompt_files import Row, shortened

FIELDS = ("prompt", "turns", "conversation", "conversations", "messages")  # the first one present has the prompt
NO_TEXT = "without user text"
SEEN = "duplicates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt and its origin."""

    text: str
    source: str
    line: int  # line in its file or row in its set, from 1

    @property
    def sha256(self) -> str:
        """SHA-256 of the text in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def prompts_of(rows: Iterable[Row], field: str | None, source: str, dropped: Counter[str]) -> Iterator[Prompt]:
    """The prompts in the rows: the text in `field`, by default in the first of `FIELDS` that a row has.

    A dotted name reaches into objects and lists (`data.question`, `turns.1`). A list is a conversation, and its prompt
    is the first user text: the first turn, or the first message whose `role` or `from` is `user` or `human`. A prompt's
    source is the row's `source`, else its `category`, else the `source` given here.

    Recorded conversations without user text, or with a prompt that occurred before, are skipped and counted in
    `dropped` (a short hash of each is kept). A plain text that cannot be used raises `UserError`.
    """
    seen: set[bytes] = set()
    for row in rows:
        name = field or next((one for one in FIELDS if one in row.data), FIELDS[0])
        value = _value(row, name)
        if isinstance(value, list):
            text = _first_of_user(value)
            if text is None:
                dropped[NO_TEXT] += 1
                continue
            digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if digest in seen:
                dropped[SEEN] += 1
                continue
            seen.add(digest)
        else:
            text = _checked(value, row, name)
        origin = next((one for one in ("source", "category") if row.data.get(one)), None)
        yield Prompt(text=text, source=_checked(row.data[origin], row, origin) if origin else source, line=row.number)


def _value(row: Row, field: str) -> Any:
    value: Any = row.data
    for part in [field] if field in row.data else field.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            there = f"; choose one of {', '.join(row.data)} with `prompt_field`" if row.data else ""
            raise UserError(f"{row.place}, field {field}: is missing{there}")
    return value


def _first_of_user(turns: list[Any]) -> str | None:
    for turn in turns:
        if isinstance(turn, Mapping):
            if turn.get("role", turn.get("from")) not in ("user", "human"):
                continue
            turn = turn.get("content", turn.get("value"))
        return turn if isinstance(turn, str) and turn.strip() and not has_half_pair(turn) else None
    return None


def _checked(value: object, row: Row, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{row.place}, field {field}: must be non-empty text, not {shortened(value)}")
    if has_half_pair(value):
        raise UserError(f"{row.place}, field {field}: contains {HALF_PAIR}")
    return value
