"""One thread for linear algebra, where results must not depend on how many there are."""

from contextlib import AbstractContextManager
from typing import Any

from threadpoolctl import get_cached_controller


def one_thread() -> AbstractContextManager[Any]:
    """Let linear algebra use one thread: the last bits of a sum depend on how many share it, and a search on them.

    The libraries are looked up once per process, which would otherwise cost milliseconds each time.
    """
    limit: AbstractContextManager[Any] = get_cached_controller().limit(limits=1)
    return limit
