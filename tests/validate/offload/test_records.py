"""Records hold the experts' parameters, and a file that cannot be one says so; slots are filled chunk by chunk."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.integrations.moe import use_experts_implementation

from common.errors import UserError
from policies.types import Copy
from tests.support.offload_helpers import record_path
from tests.support.tiny_models import tiny_model
from traces.capture.model_structure import MoeBlock, moe_blocks, shape_of
from validate.offload.arena import Arena
from validate.offload.offloaded_layer import contribution
from validate.offload.records import Records, layout_of, open_records, write_records

FAMILIES = ["mixtral", "gpt_oss", "deepseek_v3"]
DTYPES = [torch.float32, torch.bfloat16]


def records_of(family: str, folder: Path, dtype: torch.dtype = torch.float32) -> tuple[list[MoeBlock], Records]:
    blocks = moe_blocks(tiny_model(family, dtype=dtype))
    write_records(record_path(folder), blocks)
    return blocks, open_records(record_path(folder), layout_of(blocks))


def copies_of(number: int, gpu: int, slot: int, chunk_bytes: list[int]) -> list[Copy]:
    return [Copy(gpu, number, chunk, size, slot, -1, True) for chunk, size in enumerate(chunk_bytes)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_record_holds_all_parameters_of_its_expert(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    blocks, records = records_of(family, tmp_path, dtype)
    for layer, block in enumerate(blocks):
        wanted = dict(block.experts.named_parameters())
        for expert in range(block.count):
            views = records.views(layer * block.count + expert)
            assert views.keys() == wanted.keys()
            for name, view in views.items():
                assert view.dtype == dtype
                assert view.data_ptr() % 64 == 0
                assert torch.equal(view, wanted[name][expert])
    assert [file.name for file in tmp_path.iterdir()] == ["experts.records"]


def test_biases_make_a_record_larger_than_the_cache_counts() -> None:
    model = tiny_model("gpt_oss")
    layout = layout_of(moe_blocks(model))
    assert layout.record_bytes > shape_of(model, name="tiny").expert_bytes
    assert {part.name for part in layout.parts} == {
        "gate_up_proj",
        "gate_up_proj_bias",
        "down_proj",
        "down_proj_bias",
    }


@pytest.mark.parametrize("chunks", [1, 2, 3, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_chunks_together_move_the_whole_record(family: str, chunks: int, tmp_path: Path) -> None:
    _, records = records_of(family, tmp_path)
    size = shape_of(tiny_model(family), name="tiny").expert_bytes
    chunk = -(-size // chunks)
    chunk_bytes = [min(chunk, size - start) for start in range(0, size, chunk)]
    arena = Arena(records, slots=[2, 1], devices=["cpu", "cpu"], chunk_bytes=chunk_bytes)
    for number, gpu, slot in ((3, 0, 1), (7, 1, 0), (4, 0, 0)):
        for copy in copies_of(number, gpu, slot, chunk_bytes):
            arena.move(copy)
        for name, value in records.views(number).items():
            assert torch.equal(arena.views(gpu, slot)[name], value)
    assert torch.equal(arena.views(0, 1)["down_proj"], records.views(3)["down_proj"])
    assert arena.views(0, 1) is arena.views(0, 1)


def test_a_chunk_moves_its_bytes_alone(tmp_path: Path) -> None:
    _, records = records_of("gpt_oss", tmp_path)
    arena = Arena(records, slots=[1], devices=["cpu"], chunk_bytes=[9600, 9600, 3840])
    first, second, last = copies_of(5, 0, 0, [9600, 9600, 3840])
    slab, record = arena._slabs[0][0], records.bytes[5]
    arena.move(second)
    assert torch.equal(slab[9600:19200], record[9600:19200])
    assert not slab[:9600].any()
    assert not slab[19200:].any()
    arena.move(last)
    assert torch.equal(slab[9600:], record[9600:])
    arena.move(first)
    assert torch.equal(slab, record)


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_a_copy_of_several_chunks_moves_all_from_its_first_on(chunk: int, tmp_path: Path) -> None:
    _, records = records_of("gpt_oss", tmp_path)
    sizes = [9600, 9600, 3840]
    arena = Arena(records, slots=[1], devices=["cpu"], chunk_bytes=sizes)
    start = sum(sizes[:chunk])
    arena.move(Copy(0, 5, chunk, sum(sizes[chunk:]), 0, -1, True, chunks=3 - chunk))
    slab = arena._slabs[0][0]
    assert torch.equal(slab[start:], records.bytes[5][start:])
    assert not slab[:start].any()


def test_only_the_cpu_is_a_device_so_far(tmp_path: Path) -> None:
    _, records = records_of("mixtral", tmp_path)
    with pytest.raises(UserError, match=r"device 'cuda:0': replay runs only on the CPU so far; use 'cpu'$"):
        Arena(records, slots=[2, 2], devices=["cpu", "cuda:0"], chunk_bytes=[23040])


def test_a_cache_that_counts_more_than_a_record_is_refused(tmp_path: Path) -> None:
    _, records = records_of("mixtral", tmp_path)
    with pytest.raises(UserError, match=r"the cache counts 23041 bytes .* have only 23040"):
        Arena(records, slots=[2], devices=["cpu"], chunk_bytes=[23041])


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk, a write beyond `size` fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = record_path(tmp_path)
    path.write_bytes(b"before")
    with (
        pytest.raises(UserError, match=rf"^{path}: the experts could not be written: File too large$"),
        files_of_at_most(100_000),
    ):
        write_records(path, moe_blocks(tiny_model("mixtral")))
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path) -> None:
    blocks = moe_blocks(tiny_model("mixtral"))

    def interrupted(name: str) -> nn.Parameter:
        raise KeyboardInterrupt

    blocks[1].experts.get_parameter = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        write_records(record_path(tmp_path), blocks)
    assert not list(tmp_path.iterdir())


def test_a_place_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/experts: the experts could not be written: "):
        write_records(tmp_path / "file" / "experts", moe_blocks(tiny_model("mixtral")))


def test_a_file_that_is_missing_or_of_another_size_is_one_line(tmp_path: Path) -> None:
    layout = layout_of(moe_blocks(tiny_model("mixtral")))
    path = record_path(tmp_path)
    with pytest.raises(UserError, match=r"experts\.records: the experts cannot be read: No such file or directory$"):
        open_records(path, layout)
    path.write_bytes(bytes(1000))
    with pytest.raises(UserError, match=r"it has 1000 bytes; 24 records of this model need 552960$"):
        open_records(path, layout)


def test_writing_into_the_map_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    blocks, records = records_of("mixtral", tmp_path)
    before = record_path(tmp_path).read_bytes()
    records.bytes.zero_()
    assert record_path(tmp_path).read_bytes() == before
    assert open_records(record_path(tmp_path), layout_of(blocks)).bytes.any()


@pytest.mark.parametrize(
    ("family", "said"),
    [
        (
            "llama4_text",
            r"Llama4TextExperts, do not use Transformers' experts interface: they have no 'is_transposed'$",
        ),
        ("dbrx", r"DbrxExperts, do not use Transformers' experts interface: they have no 'is_transposed'$"),
    ],
)
def test_experts_without_the_interface_are_refused(family: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        write_records(record_path(tmp_path), moe_blocks(tiny_model(family)))
    assert not list(tmp_path.iterdir())


def test_experts_with_other_parameters_than_the_interface_knows_are_refused() -> None:
    blocks = moe_blocks(tiny_model("mixtral"))
    experts: Any = blocks[1].experts
    experts.scale = nn.Parameter(torch.ones(3))
    with pytest.raises(UserError, match=r"layers\.1\.mlp, .* a parameter 'scale' of shape \[3\], not \[8 experts, …\]"):
        layout_of(blocks)
    experts.scale = nn.Parameter(torch.ones(8, 3))
    with pytest.raises(
        UserError, match=r"layers\.1\.mlp have different parameters from those of model\.layers\.0\.mlp"
    ):
        layout_of(blocks)
    del experts.scale, experts.down_proj
    with pytest.raises(UserError, match=r"layers\.1\.mlp, MixtralExperts, have no parameter 'down_proj'$"):
        layout_of(blocks)


def test_layers_of_different_types_are_refused() -> None:
    blocks = moe_blocks(tiny_model("mixtral"))
    blocks[2].experts.bfloat16()
    with pytest.raises(UserError, match=r"layers\.2\.mlp have different parameters from those of"):
        layout_of(blocks)


class _Plain(nn.Module):
    """Experts without a gate, and with a norm behind each, as their own loop computes them."""

    def __init__(self, config: None) -> None:
        super().__init__()
        self.num_experts = 5
        self.act_fn = nn.SiLU()
        self.up_proj = nn.Parameter(torch.randn(5, 20, 12))
        self.up_proj_bias = nn.Parameter(torch.randn(5, 20))
        self.down_proj = nn.Parameter(torch.randn(5, 12, 20))
        self.down_proj_bias = nn.Parameter(torch.randn(5, 12))
        self.post_expert_norm = nn.RMSNorm(12)

    def forward(self, states: torch.Tensor, expert: int, weights: torch.Tensor) -> torch.Tensor:
        states = nn.functional.linear(states, self.up_proj[expert]) + self.up_proj_bias[expert]
        states = nn.functional.linear(self.act_fn(states), self.down_proj[expert]) + self.down_proj_bias[expert]
        return self.post_expert_norm(states) * weights


def test_experts_without_a_gate_and_with_a_norm_follow_the_interface_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    interface: Any = use_experts_implementation
    experts = interface(_Plain, has_gate=False, has_bias=True)(None)
    experts.has_post_expert_norm = True  # an argument that Transformers 5.17 does not know yet
    blocks = [MoeBlock("block", nn.Linear(1, 1), experts, 5)]
    write_records(record_path(tmp_path), blocks)
    records = open_records(record_path(tmp_path), layout_of(blocks))
    assert "post_expert_norm.weight" not in records.views(0)
    states, weights, rows = torch.randn(7, 12), torch.rand(3, 1), torch.tensor([1, 4, 6])
    with torch.no_grad():
        for expert in range(5):
            wanted = _Plain.forward.__wrapped__(experts, states[rows], expert, weights)  # type: ignore[attr-defined]
            assert torch.equal(contribution(experts, states, rows, weights, records.views(expert)), wanted)


def test_a_layout_is_a_plain_value() -> None:
    layout = layout_of(moe_blocks(tiny_model("mixtral")))
    assert layout == layout_of(moe_blocks(tiny_model("mixtral", seed=1)))
    assert layout != replace(layout, layers=4)
