"""A user's own modules for the tests of this folder."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a module of a user into the current directory; each test has a name of its own for it."""
    monkeypatch.chdir(tmp_path)
    written = []

    def write(text: str) -> str:
        name = f"mine_{tmp_path.name.lower()}_{len(written)}"
        written.append(name)
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write
