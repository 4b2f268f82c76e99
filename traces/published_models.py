"""Shapes of published models, from their public configurations."""

from common.errors import unknown
from policies.types import ModelShape

_PUBLISHED = (
    ModelShape(
        name="mixtral-8x7b",
        layers=32,
        experts=8,
        top_k=2,
        hidden=4096,
        expert_ffn=14336,
        attention_heads=32,
        kv_heads=8,
        head_dim=128,
        vocab=32000,
    ),
    ModelShape(
        name="qwen1.5-moe-a2.7b",
        layers=24,
        experts=60,
        top_k=4,
        hidden=2048,
        expert_ffn=1408,
        shared_ffn=5632,
        attention_heads=16,
        kv_heads=16,
        head_dim=128,
        vocab=151936,
    ),
    ModelShape(
        name="phi-3.5-moe",
        layers=32,
        experts=16,
        top_k=2,
        hidden=4096,
        expert_ffn=6400,
        attention_heads=32,
        kv_heads=8,
        head_dim=128,
        vocab=32064,
    ),
    ModelShape(
        name="gpt-oss-20b",
        layers=24,
        experts=32,
        top_k=4,
        hidden=2880,
        expert_ffn=2880,
        attention_heads=64,
        kv_heads=8,
        head_dim=64,
        vocab=201088,
    ),
)

PUBLISHED: dict[str, ModelShape] = {shape.name: shape for shape in _PUBLISHED}


def published(name: str) -> ModelShape:
    """The shape of a published model; raises `UserError` for an unknown name and suggests the nearest."""
    if name not in PUBLISHED:
        raise unknown("model", name, PUBLISHED)
    return PUBLISHED[name]
