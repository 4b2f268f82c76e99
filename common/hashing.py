"""SHA-256 of files and of plain data."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def canonical_json(data: object) -> bytes:
    """JSON with sorted keys and no spaces: equal data gives equal bytes."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sha256_of_json(data: object) -> str:
    """SHA-256 of the canonical JSON of the data."""
    return hashlib.sha256(canonical_json(data)).hexdigest()


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data with its own hash, so that a later change can be detected."""
    return {**data, "sha256": sha256_of_json(dict(data))}


def is_sealed(data: Mapping[str, Any]) -> bool:
    """Whether the data is unchanged since `sealed` returned it."""
    try:
        return data.get("sha256") == sha256_of_json({key: value for key, value in data.items() if key != "sha256"})
    except (ValueError, RecursionError):  # NaN, or text that no file can have had when it was sealed
        return False


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
