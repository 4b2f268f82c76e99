"""`python -m traces.pocket_training train`: train tokenizer and model."""

from pathlib import Path
from typing import Annotated

from common.applications import FLAT
from common.errors import FieldError, UserError
from traces.pocket.recipe import as_json
from traces.pocket_training.corpus import read
from traces.pocket_training.workshop import Workshop


def train(workshop: Annotated[Workshop, FLAT], *, out: Path, threads: int = 1) -> None:
    """Train tokenizer and model on one core: a few minutes, for a twin half an hour.

    Parameters
    ----------
    out
        New folder for the model.
    threads
        Threads of PyTorch; only 1 is deterministic.
    """
    if threads < 1:
        raise FieldError("threads", f"must be at least 1, not {threads}")
    recipe = workshop.recipe
    corpus = read(workshop.cache)
    if corpus.account["plan"] != as_json(recipe.corpus):
        raise UserError(
            f"{workshop.cache} has a corpus of another plan; assemble it with: corpus --model {recipe.name}"
        )
    from traces.pocket_training.train import make  # imported late: mistakes above need no torch

    make(recipe, corpus, out, threads=threads)
    print(out)
