"""`python -m traces.pocket_training naturalness`: measure how natural the traces of a committed model are."""

from pathlib import Path

from common.errors import FieldError
from common.files import replacing
from traces.pocket import model_dir
from traces.pocket.recipe import recipe_of


def naturalness(model: str, /, *, cache: Path | None = None, card: bool = False) -> None:
    """Measure how natural the traces of a committed model are, and print that section of its card.

    Parameters
    ----------
    model
        Model: pocket, mixtral-8x7b-twin, qwen1.5-moe-a2.7b-twin or phi-3.5-moe-twin.
    cache
        Cache folder with the corpus; without it, held-out text is not measured.
    card
        Write the section to the model's README.md instead of printing it; needs the cache.
    """
    folder = model_dir(recipe_of(model).name)
    if card and cache is None:
        raise FieldError("cache", "is required with `card`, which includes held-out text")
    from traces.pocket_training.card import corpus_of
    from traces.pocket_training.natural_traces import measured, section, with_section

    text = section(measured(folder, None if cache is None else corpus_of(folder, cache)))
    if not card:
        print(text)
        return
    path = folder / "README.md"
    whole = with_section(path.read_text(encoding="utf-8"), text)
    with replacing(path, "the model card") as partial:
        partial.write_text(whole, encoding="utf-8")
