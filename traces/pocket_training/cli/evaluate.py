"""`python -m traces.pocket_training evaluate`: measure a model and write its card."""

from pathlib import Path
from typing import Annotated

from common.applications import FLAT
from common.errors import FieldError
from common.files import replacing
from traces.pocket import load, model_dir
from traces.pocket_training.workshop import Workshop


def evaluate(workshop: Annotated[Workshop, FLAT], *, folder: Path | None = None, card: bool = False) -> None:
    """Measure a model on held-out text and print its card.

    Parameters
    ----------
    folder
        Folder of the model. Default: the committed one.
    card
        Write the card to README.md in the model's folder instead of printing it.
    """
    from threadpoolctl import threadpool_limits

    from traces.pocket_training.build import untrained
    from traces.pocket_training.card import card as card_of
    from traces.pocket_training.card import corpus_of, facts, samples
    from traces.pocket_training.evaluate import evaluate as measured
    from traces.pocket_training.natural_traces import measured as traces_of
    from traces.pocket_training.natural_traces import section

    recipe = workshop.recipe
    folder = folder or model_dir(recipe.name)
    noted = facts(folder)
    if noted["recipe"]["name"] != recipe.name:
        raise FieldError(
            "model", f"must be {noted['recipe']['name']}, the recipe that trained {folder}, not {recipe.name}"
        )
    corpus = corpus_of(folder, workshop.cache)
    model, tokenizer = load(folder=folder)
    with threadpool_limits(1):  # for matrices this small, several threads mostly wait for each other
        trained = measured(model, tokenizer, corpus)
        control = measured(untrained(recipe.architecture, recipe.seed), tokenizer, corpus)
        natural = section(traces_of(folder, corpus))
        text = card_of(recipe, type(model).__name__, noted, trained, control, samples(model, tokenizer), natural)
    if card:
        with replacing(folder / "README.md", "the model card") as partial:
            partial.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
