"""Files that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import UserError


@contextmanager
def replacing(path: Path, what: str) -> Iterator[Path]:
    """A name beside `path` to write `what` to, which takes its place when the block has ended well.

    Folders above are made. A `UserError` if the disk refuses; nothing is left behind then.
    """
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: {what} could not be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink()
