"""Progress of long work, as a bar on stderr."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def bar(what: str, total: int, unit: str = "request", *, quiet: bool = False) -> Iterator[Callable[[int], object]]:
    """A bar that vanishes when its work is done; not drawn if `quiet` is set or stderr is not a terminal.

    Call the yielded function with the number of newly finished items.
    """
    if quiet:  # as in a worker: tqdm would create semaphores, about which Python complains if the process is killed
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, disable=None, leave=False) as drawn:
        yield drawn.update


def counted(items: Iterable[T], done: Callable[[int], object]) -> Iterator[T]:
    """The same items; each is counted when the next one is requested."""
    for item in items:
        yield item
        done(1)
