"""Which instances of a law `make test` runs, and which only `make test-slow`."""

from collections.abc import Sequence
from typing import Any

import pytest

SOME_POLICIES = (
    "clairvoyant",
    "deepspeed",
    "finemoe",
    "lru",
    "mixtral-offloading",
    "moe-infinity",
    "moe-infinity-code",
    "no-offload",
    "promoe",
)
"""Between them they take every path of the engine and of the cache that the named policies take."""


def some_policies(names: Sequence[str]) -> list[Any]:
    """Parameters of a test: of `names`, all but `SOME_POLICIES` are marked slow."""
    return slow_but(names, *(name for name in names if name in SOME_POLICIES))


def slow_but(values: Sequence[Any], *fast: Any) -> list[Any]:
    """Parameters of a test: of `values`, all but `fast` are marked slow; a tuple is one value per argument."""
    missing = [value for value in fast if value not in values]
    assert not missing, missing
    return [
        value
        if value in fast
        else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]
