"""The machines that can be simulated: GPUs, links and named presets.

Presets hold data-sheet figures, with the PCIe bandwidth that the paper states. The overheads and the speed of searching
(a few cores of the host) are assumptions; nothing in them was measured here.
"""

from dataclasses import dataclass, replace

from common.errors import UserError, unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Peak rates of one GPU. `overhead_s` is what starting one operation (attention, one expert, the head) costs."""

    name: str
    flops_per_s: float  # 16-bit matrix products with 32-bit sums
    memory_bytes_per_s: float
    memory_bytes: float
    overhead_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of a connection."""

    bytes_per_s: float
    latency_s: float

    def copy_s(self, size_bytes: float) -> float:
        """Seconds to move so many bytes in one piece."""
        return self.latency_s + size_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """GPUs of one kind, each with a link to host memory and one to its peers, and the processor that searches."""

    name: str
    gpus: int
    gpu: Gpu
    host_link: Link
    peer_link: Link
    search_overhead_s: float  # per search
    search_bytes_per_s: float  # reading the store
    search_flops_per_s: float

    def __post_init__(self) -> None:
        """Refuse machines that cannot exist."""
        if self.gpus < 1:
            raise UserError(f"hardware {self.name}: gpus is {self.gpus}, at least 1 is needed")


_RTX_3090 = Gpu(
    name="RTX 3090", flops_per_s=71e12, memory_bytes_per_s=936e9, memory_bytes=24e9, overhead_s=10e-6
)  # GA102 data sheet
_A100 = Gpu(name="A100-80GB", flops_per_s=312e12, memory_bytes_per_s=2.0e12, memory_bytes=80e9, overhead_s=10e-6)
_PCIE_4 = Link(bytes_per_s=32e9, latency_s=10e-6)  # paper §6.1

# The paper's first testbed. NVLink joins its GPUs in pairs only, so activations among all six cross PCIe.
_RTX_3090_X6 = Hardware(
    name="rtx3090x6",
    gpus=6,
    gpu=_RTX_3090,
    host_link=_PCIE_4,
    peer_link=_PCIE_4,
    search_overhead_s=20e-6,
    search_bytes_per_s=20e9,
    search_flops_per_s=200e9,
)

PRESETS: dict[str, Hardware] = {
    hardware.name: hardware
    for hardware in (
        _RTX_3090_X6,
        replace(_RTX_3090_X6, name="rtx3090", gpus=1),
        replace(_RTX_3090_X6, name="a100", gpus=1, gpu=_A100),  # the paper's second testbed
    )
}


def preset(name: str) -> Hardware:
    """A named machine; an unknown name is a `UserError` that offers the nearest."""
    if name not in PRESETS:
        raise unknown("machine", name, PRESETS)
    return PRESETS[name]
