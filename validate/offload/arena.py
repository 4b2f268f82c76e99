"""The fast memory: a slab of slots on each device, and the copies that fill them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.errors import UserError
from policies.types import Copy
from validate.offload.records import Records


class Arena:
    """`slots[g]` slots on device g, each with room for one record.

    Devices are logical: several may be the CPU, each with its own slab. `chunk_bytes` are the sizes of an expert's
    chunks as the cache counts them (`ExpertCache.chunk_bytes`, the same in all layers). A record may be larger because
    of biases and alignment; the remainder moves with the last chunk. `records` and the slabs `[slots, record_bytes]`
    are uint8.

    On a GPU, a slab would lie in GPU memory and records in pinned host memory. `move` would then copy asynchronously on
    the link's own stream and wait for an event there, which blocks only the link's thread.
    """

    def __init__(
        self,
        records: Records,
        *,
        slots: Sequence[int],
        devices: Sequence[str | torch.device],
        chunk_bytes: Sequence[int],
    ) -> None:
        size = records.layout.record_bytes
        _check(devices, chunk_bytes, size)
        self.records = records
        starts = [sum(chunk_bytes[:chunk]) for chunk in range(len(chunk_bytes))]
        self._bounds = [*starts, size]
        # Written once, so that the first copy into a slot does not wait for its pages.
        self._slabs = [
            torch.zeros(count, size, dtype=torch.uint8, device=device).fill_(0)
            for count, device in zip(slots, devices, strict=True)
        ]
        self._views = [[records.layout.views(slot) for slot in slab] for slab in self._slabs]

    def views(self, gpu: int, slot: int) -> dict[str, Tensor]:
        """The parameters of the expert in a slot, by name; a slot always has the same tensors."""
        return self._views[gpu][slot]

    def move(self, copy: Copy) -> None:
        """Copy chunks into their slot and return when they have arrived. Threads of several links may do so at once."""
        chunks = slice(self._bounds[copy.chunk], self._bounds[copy.chunk + copy.chunks])
        self._slabs[copy.gpu][copy.slot, chunks].copy_(self.records.bytes[copy.number, chunks])


def _check(devices: Sequence[str | torch.device], chunk_bytes: Sequence[int], record_bytes: int) -> None:
    for device in devices:
        if torch.device(device).type != "cpu":
            raise UserError(f"device {str(device)!r}: replay runs only on the CPU so far; use 'cpu'")
    if sum(chunk_bytes) > record_bytes:
        what = f"the cache counts {sum(chunk_bytes)} bytes for an expert, but its parameters have only {record_bytes}"
        raise UserError(f"{what}: it was set up for another shape than the model's")


def devices_of(kind: str, count: int) -> list[torch.device]:
    """`count` devices of a kind; "cpu" may be used any number of times."""
    return [torch.device(kind)] * count
