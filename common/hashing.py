"""SHA-256 of files and of plain data."""

import hashlib
import json
from pathlib import Path


def canonical_json(data: object) -> bytes:
    """JSON with sorted keys and no spaces: equal data gives equal bytes."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sha256_of_json(data: object) -> str:
    """SHA-256 of the canonical form."""
    return hashlib.sha256(canonical_json(data)).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
