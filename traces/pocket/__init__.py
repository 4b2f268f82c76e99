"""Small trained MoE language models that ship with the project.

They are the pocket model and its larger relatives, the twins of published models. `load(name)` returns model and
tokenizer; `python -m traces.pocket_training --help` shows how to train them again. The model cards are
`models/NAME/README.md`. Importing this package imports neither torch nor transformers.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from common.errors import UserError
from traces.pocket.recipe import POCKET, recipe_of

if TYPE_CHECKING:
    import torch

# The classes of Transformers, whose annotations differ between versions.
Model: TypeAlias = Any
Tokenizer: TypeAlias = Any

DEMO_PROMPTS = Path(__file__).parent / "demo_prompts.jsonl"


def model_dir(name: str) -> Path:
    """The folder of a committed model; raises `UserError` for an unknown name."""
    return Path(__file__).parent / "models" / recipe_of(name).name


def load(
    name: str = POCKET.name, *, dtype: "torch.dtype | None" = None, folder: Path | None = None
) -> tuple[Model, Tokenizer]:
    """Load model, in evaluation mode, and tokenizer from the committed checkpoint of `name`, or from `folder`.

    The stored weights are bfloat16; they run in `dtype`, by default float32.
    """
    folder = folder or model_dir(name)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} contains no model: config.json is missing")
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; try: pip install 'finemoe-lab[models]'") from error

    model: Model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32 if dtype is None else dtype)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def demo_prompts() -> list[dict[str, str]]:
    """48 short prompts written for this project, with fields `prompt` and `source` (the kind of text)."""
    return [json.loads(line) for line in DEMO_PROMPTS.read_text(encoding="utf-8").splitlines()]
