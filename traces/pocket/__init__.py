"""The pocket model: a small trained MoE language model that ships with the project, and the code that made it.

`load()` gives model and tokenizer; `python -m traces.pocket --help` makes them anew. The model card is
`model/README.md`. Importing this package imports neither torch nor transformers.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from policies.errors import UserError
from traces.pocket.build import Model
from traces.pocket.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

MODEL_DIR = Path(__file__).parent / "model"
DEMO_PROMPTS = Path(__file__).parent / "demo_prompts.jsonl"


def load(dtype: "torch.dtype | None" = None, folder: Path = MODEL_DIR) -> tuple[Model, Tokenizer]:
    """Model, ready to run, and tokenizer; from the committed checkpoint unless another `folder` is named.

    The stored weights are bfloat16. They run in `dtype`, float32 when it is not given.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model: config.json is missing")
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; try: pip install 'finemoe-lab[models]'") from error

    model: Model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32 if dtype is None else dtype)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def demo_prompts() -> list[dict[str, str]]:
    """48 short prompts written for this project, with the fields `prompt` and `source` (the kind of text)."""
    return [json.loads(line) for line in DEMO_PROMPTS.read_text(encoding="utf-8").splitlines()]
