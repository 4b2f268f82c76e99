"""Progress bar of a collection."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm
from typing_extensions import override

from common.progress import LOG_PACE_S


@contextmanager
def token_bar(model: Any, tokens: int, *, batches: tuple[int, int]) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr with the tokens that `model` generates, tokens per second, time left, and batches.

    `tokens` is the planned maximum; `batches` are the number already finished and the total. Call the yielded function
    after each batch with its planned and its actual number of tokens. If stderr is not a terminal, the bar is a line of
    text every half minute.
    """
    done, of = batches
    live = sys.stderr.isatty()
    with tqdm(
        total=tokens,
        desc="collect",
        unit=" tok",
        file=sys.stderr if live else _Lines(),
        mininterval=0.5 if live else LOG_PACE_S,
        dynamic_ncols=live,
        bar_format=None if live else "{desc}: {n_fmt} of {total_fmt} tokens, {rate_fmt}, {remaining} left{postfix}",
        postfix=f"batch {done} of {of}",
    ) as bar:
        expected, counted, generated = tokens, 0, 0

        def passed(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            nonlocal counted
            counted += len(kwargs["input_ids"])
            bar.update(len(kwargs["input_ids"]))

        def finished(planned: int, came_out: int) -> None:
            nonlocal expected, counted, generated, done
            expected -= planned - came_out
            generated += came_out
            done += 1
            bar.total = expected
            early = f"; {tokens - expected} tokens fewer, as texts ended early" if expected < tokens else ""
            bar.set_postfix_str(f"batch {done} of {of}{early}", refresh=False)
            bar.update(generated - counted)  # the hook also counted finished requests in the batch
            counted = generated

        hook = model.register_forward_hook(passed, with_kwargs=True)
        try:
            yield finished
        finally:
            hook.remove()


class _Lines(io.TextIOBase):
    """stderr as a log: each state of the bar is written as a separate line."""

    @override
    def write(self, text: str) -> int:
        line = text.strip()
        if line:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        return len(text)
