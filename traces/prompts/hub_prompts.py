"""Prompt data sets from the Hugging Face hub, or from a folder with a copy of one, through `datasets`."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import load_dataset
from huggingface_hub import HfApi
from huggingface_hub.errors import RevisionNotFoundError
from tqdm import tqdm

from common.errors import UserError, one_line
from traces.prompts.prompt_files import Row, array_rows

_CHUNK = 1 << 20  # characters; the default, ten times as many, takes 130 MB more
_REFUSED = (401, 403)


def rows_of_hub(name: str, repository: str, *, file: str | None, revision: str | None) -> tuple[str, Iterator[Row]]:
    """`repository@commit`, and the rows of its training split, streamed.

    `revision` is a branch, tag or commit, by default the newest. Only the rows that are read are downloaded; nothing is
    cached. Raises `UserError` with advice if the hub cannot be reached or denies access.
    """
    with _explained(name, repository, revision):
        commit = HfApi().dataset_info(repository, revision=revision).sha
    if file is None:
        rows = rows_of_dataset(name, repository, revision=commit)
    else:
        rows = rows_of_array(name, f"hf://datasets/{repository}@{commit}/{file}")
    return f"{repository}@{commit}", _explained_rows(rows, name, repository, revision)


def rows_of_folder(folder: Path) -> Iterator[Row]:
    """The rows of the training split of a data set in a local folder."""
    return _explained_rows(rows_of_dataset(str(folder), str(folder)), str(folder), None, None)


def rows_of_dataset(name: str, where: str, *, revision: str | None = None) -> Iterator[Row]:
    """The rows of a repository or a folder in any layout that `datasets` knows."""
    rows = load_dataset(where, split="train", revision=revision, streaming=True)
    for number, data in enumerate(_counted(rows, name), start=1):
        yield Row(number, f"{name}: row {number}", data)


def rows_of_array(name: str, url: str) -> Iterator[Row]:
    """The objects of one file with a JSON array.

    The file is streamed as text, since `datasets` would read all of it before the first row, and ShareGPT's has
    hundreds of megabytes.
    """
    how = {"streaming": True, "keep_linebreaks": True, "chunksize": _CHUNK}
    lines = load_dataset("text", data_files=url, split="train", **how)
    yield from _counted(array_rows((line["text"] for line in lines), name), name)


def _counted(rows: Iterable[Any], name: str) -> Iterator[Any]:
    with tqdm(rows, desc=name, unit="row", disable=None, leave=False) as bar:
        yield from bar


def _explained_rows(rows: Iterator[Row], name: str, repository: str | None, revision: str | None) -> Iterator[Row]:
    with _explained(name, repository, revision):
        yield from rows


@contextmanager
def _explained(name: str, repository: str | None, revision: str | None) -> Iterator[None]:
    """Turn any error into one line; three libraries raise errors without a common base class."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns about each of its retries
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name}: {_why(error, repository, revision)}") from error
    finally:
        log.setLevel(level)


def _why(error: Exception, repository: str | None, revision: str | None) -> str:
    if repository is None:
        return f"cannot be read as a data set: {one_line(error)}"
    page = f"https://huggingface.co/datasets/{repository}"
    chain = [error, *(one for one in (error.__cause__, error.__context__) if one is not None)]
    if any(isinstance(one, RevisionNotFoundError) for one in chain):
        return f"{page} has no revision {revision!r}"
    if any(getattr(getattr(one, "response", None), "status_code", None) in _REFUSED for one in chain) or any(
        "gated" in str(one) for one in chain
    ):
        return (
            f"access is denied; accept the terms at {page} with your account, then log in here with `hf auth login` "
            "or set HF_TOKEN"
        )
    return (
        f"{page} cannot be read: {one_line(error).partition('. ')[0]}; "
        "without a network, use a file, or a folder with a downloaded copy"
    )
