"""One thread for linear algebra, so that results do not depend on the number of threads."""

from contextlib import AbstractContextManager
from typing import Any

from threadpoolctl import get_cached_controller


def one_thread() -> AbstractContextManager[Any]:
    """Let linear algebra use one thread: the number of threads changes the last bits of sums, and so search results.

    The libraries are looked up once per process, since a look-up costs milliseconds.
    """
    limit: AbstractContextManager[Any] = get_cached_controller().limit(limits=1)
    return limit
