"""Settings shared by all steps: the model and the cache folder."""

from dataclasses import dataclass
from pathlib import Path

from common.settings import check
from traces.pocket.recipe import POCKET, Recipe, recipe_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Settings shared by all steps."""

    cache: Path
    """Cache folder with packages and corpus."""
    model: str = POCKET.name
    """Model: pocket, mixtral-8x7b-twin, qwen1.5-moe-a2.7b-twin or phi-3.5-moe-twin."""

    def __post_init__(self) -> None:
        check(self)
        recipe_of(self.model)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the model."""
        return recipe_of(self.model)
