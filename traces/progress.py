"""How far a collection has come."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


@contextmanager
def token_bar(model: Any, tokens: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr that counts the tokens that `model` generates, and how many a second.

    `tokens` are planned at most. The function that it gives is called after each batch, with the tokens that were
    planned for the batch and those that came out.
    """
    pace = 0.5 if sys.stderr.isatty() else 30.0
    with tqdm(total=tokens, desc="collect", unit="tok", file=sys.stderr, mininterval=pace, dynamic_ncols=True) as bar:
        expected, counted, generated = tokens, 0, 0

        def passed(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            nonlocal counted
            counted += len(kwargs["input_ids"])
            bar.update(len(kwargs["input_ids"]))

        def finished(planned: int, came_out: int) -> None:
            nonlocal expected, counted, generated
            expected -= planned - came_out
            generated += came_out
            bar.total = expected
            bar.update(generated - counted)  # finished requests were counted along with their neighbours
            counted = generated

        hook = model.register_forward_hook(passed, with_kwargs=True)
        try:
            yield finished
        finally:
            hook.remove()
