"""The recipe of each committed model: shape, corpus plan and training, as frozen data.

Two runs of one recipe on one machine give the same bytes. `sources.py`, `extract.py` and `maths.py` define the sources
and how text is extracted from them. To add a model, add a `Recipe` to `RECIPES`; `build.py` builds each model family.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from common.errors import unknown
from traces.published_models import published


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shape of a small Mixture-of-Experts language model.

    `initializer_range` is the standard deviation of all weights except the routers', which get `router_std`: with the
    usual 0.02, a router of so few dimensions starts almost uniform and hardly specialises in a few hundred steps.
    """

    family: str
    layers: int
    experts: int
    top_k: int
    hidden: int
    expert_ffn: int
    shared_ffn: int = 0  # width of the shared expert; 0: none
    attention_heads: int
    kv_heads: int
    vocabulary: int = 4096
    max_positions: int = 1024
    initializer_range: float = 0.02
    router_std: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A fixed number of AdamW steps; the learning rate warms up linearly and then follows a half cosine.

    `balance_weight` multiplies the load-balancing loss, which is averaged over layers.
    """

    steps: int = 1040
    batch: int = 4
    window: int = 256  # tokens of one training sequence
    peak_rate: float = 5e-3
    final_rate: float = 0.05  # fraction of the peak
    warmup_steps: int = 50
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1  # of matrices, not of norms
    clip: float = 1.0
    balance_weight: float = 0.01

    @property
    def tokens(self) -> int:
        """Number of tokens seen in training."""
        return self.steps * self.batch * self.window


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusPlan:
    """Number of training and held-out characters of each domain.

    Whole groups are held out (a play, a module, a page, a conversation), so no held-out text shares its file with a
    training text. A domain with less text than its share is repeated, at most `repeats` times.
    """

    characters: tuple[tuple[str, int], ...]
    held_out_characters: int = 24_000  # of each domain
    held_out_per_group: int = 6_000  # so that one long play does not fill the share
    piece_characters: int = 2_400  # long files are cut at blank lines into pieces of about this size at most
    repeats: int = 3
    seed: int = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that defines one model; `seed` is for the weights, the order of batches and the router's noise."""

    name: str
    architecture: Architecture
    corpus: CorpusPlan
    training: Training = field(default_factory=Training)
    seed: int = 7
    original: str = ""  # for a twin: the published model with this routing topology


POCKET = Recipe(
    name="pocket",
    architecture=Architecture(
        family="mixtral",
        layers=8,
        experts=8,
        top_k=2,
        hidden=64,
        expert_ffn=96,
        attention_heads=4,
        kv_heads=2,
        initializer_range=0.07,  # held-out loss 4.35 against 4.44 with 0.02, on a slightly different corpus
    ),
    corpus=CorpusPlan(
        characters=(
            ("code", 600_000),
            ("tasks", 600_000),
            ("maths", 400_000),
            ("dialogue", 300_000),
            ("drama", 600_000),
            ("definitions", 550_000),
            ("technical", 600_000),
        ),
    ),
)

# About twice the pocket model's text, from the same packages; the rule for held-out texts, and so the texts, are equal.
_TWIN_CORPUS = CorpusPlan(
    characters=(
        ("code", 1_250_000),
        ("tasks", 1_250_000),
        ("maths", 900_000),
        ("dialogue", 300_000),
        ("drama", 1_250_000),
        ("definitions", 1_250_000),
        ("technical", 1_250_000),
    ),
)


def _twin(original: str, family: str, *, expert_ffn: int, kv_heads: int, shared_ffn: int = 0) -> Recipe:
    """A twin: layers, experts and top-k of the published model, at hidden size 64."""
    shape = published(original)
    return Recipe(
        name=f"{original}-twin",
        original=original,
        architecture=Architecture(
            family=family,
            layers=shape.layers,
            experts=shape.experts,
            top_k=shape.top_k,
            hidden=64,
            expert_ffn=expert_ffn,
            shared_ffn=shared_ffn,
            attention_heads=4,
            kv_heads=kv_heads,
            initializer_range=0.07,
        ),
        corpus=_TWIN_CORPUS,
        training=Training(steps=2400),
    )


TWINS = (
    _twin("mixtral-8x7b", "mixtral", expert_ffn=96, kv_heads=2),
    _twin("qwen1.5-moe-a2.7b", "qwen2_moe", expert_ffn=32, kv_heads=4, shared_ffn=128),
    _twin("phi-3.5-moe", "phimoe", expert_ffn=96, kv_heads=2),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (POCKET, *TWINS)}


def recipe_of(name: str) -> Recipe:
    """The recipe of a committed model; raises `UserError` for an unknown name and suggests the nearest."""
    if name not in RECIPES:
        raise unknown("model", name, RECIPES)
    return RECIPES[name]


def as_json(what: Recipe | CorpusPlan) -> Any:
    """The fields as read back from JSON: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(what)))
