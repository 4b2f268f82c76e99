"""Which committed model is made, and where its text is."""

from dataclasses import dataclass
from pathlib import Path

from common.settings import check
from traces.pocket.recipe import POCKET, Recipe, recipe_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What all steps need."""

    cache: Path
    """Folder of packages and corpus."""
    model: str = POCKET.name
    """pocket, mixtral-8x7b-twin, qwen1.5-moe-a2.7b-twin or phi-3.5-moe-twin."""

    def __post_init__(self) -> None:
        check(self)
        recipe_of(self.model)

    @property
    def recipe(self) -> Recipe:
        """How the model is made."""
        return recipe_of(self.model)
