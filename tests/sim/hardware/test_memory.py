"""What GPU memory holds beside routed experts, against numbers worked out by hand."""

from dataclasses import replace

import pytest

from policies.types import ModelShape
from sim.hardware.memory import GpuMemory, dense_weights
from sim.scenario import CacheSize
from tests.support.builders import shape
from traces.published_models import published

# Grouped-query attention, 4 heads of 3 on 2 key-value heads, 5 experts, shared experts of width 7; 2 bytes a weight.
MODEL = shape(
    layers=3, experts=5, hidden=8, expert_ffn=6, shared_ffn=7, attention_heads=4, kv_heads=2, head_dim=3, vocab=10
)


def memory(model: ModelShape = MODEL, *, total_bytes: float = 5000.0, positions: int = 0) -> GpuMemory:
    return GpuMemory.of(model, total_bytes, positions=positions)


def test_dense_weights_are_attention_router_shared_experts_embedding_and_head() -> None:
    """Queries and output 2·8·12, keys and values 2·8·6, router 8·5, shared 3·8·7; embedding and head 2·8·10."""
    assert dense_weights(MODEL) == 192 + 96 + 40 + 168
    assert memory().dense_bytes == (3 * 496 + 160) * 2
    assert memory(replace(MODEL, weight_bytes=0.5)).dense_bytes == (3 * 496 + 160) / 2


def test_a_position_caches_a_key_and_a_value_of_each_head_in_each_layer() -> None:
    assert memory(positions=7).kv_cache_bytes == 7 * 3 * (2 * 2 * 3) * 2
    assert memory(positions=7).dense_bytes == memory().dense_bytes


def test_experts_fit_to_the_last_byte_of_what_is_left() -> None:
    found = memory(total_bytes=5000.0, positions=7)
    assert found.room_bytes == 5000 - 3296 - 504
    assert found.fits(1200)
    assert not found.fits(1201)


def test_a_cache_of_max_holds_what_fits_and_no_more_than_the_model_has() -> None:
    """1200 bytes are left for experts of 3·8·6·2 = 288 bytes; the model has 15."""
    tight, ample = memory(total_bytes=5000.0, positions=7), memory(total_bytes=5000.0 + 15 * 288, positions=7)
    assert (tight.fitting(MODEL), ample.fitting(MODEL)) == (4, 19)
    assert [CacheSize(gb="max").slots(MODEL, found) for found in (tight, ample)] == [4, 15]
    assert memory(total_bytes=3799.0, positions=7).fitting(MODEL) == 0


def test_mixtrals_dense_weights_are_what_its_model_card_leaves_beside_the_experts() -> None:
    """46.7 billion parameters in all, of which 256 experts of 176,160,768 are 45.1 billion."""
    model = published("mixtral-8x7b")
    weights = memory(model).dense_bytes / 2
    assert weights + 256 * 176_160_768 == pytest.approx(46.7e9, rel=1e-3)
