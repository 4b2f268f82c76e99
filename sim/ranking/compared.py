"""What the comparison compares, as data: systems, machines, traces and cache sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Need = Literal["history", "embedding", "lookahead_1", "lookahead_3"]
Role = Literal["system", "ablation", "reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSystem:
    """A policy under the name that tables give it."""

    name: str
    policy: str
    role: Role = "system"
    """Systems are ranked, ablations are compared with FineMoE, references are shown for scale."""
    letter: str = ""
    """How orders call a system."""
    other_form: bool = False
    """It is another form of the system before it, and shares that one's colour in the picture."""
    needs: tuple[Need, ...] = ()
    """What a trace must have for this system."""
    knows_the_future: bool = False
    """It knows all future demands, so it does not count as the fastest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedTrace:
    """Routing, from NAME.trace in the routing folder, and the model sizes to simulate it with."""

    name: str
    title: str
    sizes: str | None
    """A published model whose sizes to use; None for the trace's own sizes."""
    source: str
    """Where the routing comes from."""
    made_by: tuple[str, ...]
    """Commands that make it; ROUTING stands for the folder, DATA for data that is not part of the project."""
    data: str = ""
    """The recording that it is converted from, in DATA."""
    requests: int = 4
    """The most requests to run, of those outside the history."""
    train_split: float = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedMachine:
    """A machine under the name of its column."""

    name: str
    machine: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What to compare: all combinations of these run, except systems that a trace lacks the data for."""

    systems: Sequence[ComparedSystem]
    traces: Sequence[ComparedTrace]
    cache_gb: Sequence[float]
    machines: Sequence[ComparedMachine]
    base: str
    """The machine that the other machines are compared with."""
    subject: str
    """The system that the other systems are compared with, and whose ablations are shown."""

    def of_role(self, role: Role) -> list[ComparedSystem]:
        """The systems, the ablations or the anchors."""
        return [each for each in self.systems if each.role == role]


SYSTEMS = (
    ComparedSystem(name="FineMoE", letter="F", policy="finemoe", needs=("history",)),
    ComparedSystem(name="ProMoE (learned)", letter="P", policy="promoe,lookahead=false", needs=("history",)),
    ComparedSystem(
        name="ProMoE (lookahead)", letter="A", policy="promoe", needs=("history", "lookahead_3"), other_form=True
    ),
    ComparedSystem(name="MoE-Infinity (paper)", letter="I", policy="moe-infinity", needs=("history",)),
    ComparedSystem(
        name="MoE-Infinity (code)", letter="C", policy="moe-infinity-code", needs=("history",), other_form=True
    ),
    ComparedSystem(name="Mixtral-Offloading (paper)", letter="M", policy="mixtral-offloading", needs=("lookahead_1",)),
    ComparedSystem(
        name="Mixtral-Offloading (released)", letter="R", policy="mixtral-offloading-released", other_form=True
    ),
    ComparedSystem(name="DeepSpeed", letter="D", policy="deepspeed"),
    ComparedSystem(name="LRU", letter="L", policy="lru"),
    ComparedSystem(name="Belady", letter="B", policy="belady", knows_the_future=True),
)

ABLATIONS = (
    ComparedSystem(name="without δ", policy="map-ts", needs=("history", "embedding"), role="ablation"),
    ComparedSystem(name="without δ and semantic search", policy="map-t", needs=("history",), role="ablation"),
    ComparedSystem(name="store frozen", policy="finemoe,learn=false", needs=("history",), role="ablation"),
    ComparedSystem(name="LRU eviction", policy="finemoe+lru", needs=("history",), role="ablation"),
    ComparedSystem(name="LFU eviction", policy="finemoe+lfu", needs=("history",), role="ablation"),
    ComparedSystem(name="whole copies", policy="finemoe,chunk_bytes=whole", needs=("history",), role="ablation"),
)

REFERENCES = (
    ComparedSystem(name="clairvoyant", policy="clairvoyant", role="reference"),
    ComparedSystem(name="no offloading", policy="no-offload", role="reference"),
)


def _twin(published: str, title: str) -> ComparedTrace:
    collect = f"finemoe traces collect {published}-twin --continue-text --chat-template --max-new-tokens 64"
    return ComparedTrace(
        name=f"{published}-twin",
        title=f"{title} twin",
        sizes=published,
        source="a small model with the routing topology of the original, which ships with the project",
        made_by=(f"{collect} --lookahead 1,3 --threads 1 --out ROUTING/{published}-twin.trace",),
    )


TRACES = (
    _twin("mixtral-8x7b", "Mixtral"),
    _twin("qwen1.5-moe-a2.7b", "Qwen"),
    _twin("phi-3.5-moe", "Phi"),
    ComparedTrace(
        name="gpt-oss-20b",
        title="gpt-oss",
        sizes=None,
        source="AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting on Hugging Face, Apache-2.0",
        data="gpt-oss-20b/routing.npz",
        made_by=(
            "finemoe traces convert npz DATA/gpt-oss-20b/routing.npz --model gpt-oss-20b "
            "--max-tokens 64 --out ROUTING/gpt-oss-20b.trace",
        ),
    ),
    ComparedTrace(
        name="gemma-4-26b-a4b",
        title="gemma",
        sizes=None,
        source="Helldez/BigMoeOnEdge on GitHub, Apache-2.0",
        data="bigmoeonedge/gemma.route.csv",
        made_by=(
            "finemoe traces convert route-trace DATA/bigmoeonedge/gemma.route.csv --out ROUTING/gemma-4-26b-a4b.trace",
        ),
        train_split=0.0,
    ),
)

MACHINES = (
    ComparedMachine(name="stated", machine="paper-rtx3090x6", meaning="the testbed as the paper states it"),
    ComparedMachine(name="PCIe", machine="rtx3090x6", meaning="the same, with measured PCIe rates"),
    ComparedMachine(
        name="host",
        machine="rtx3090x6,host.memory_bytes_per_s=96e9",
        meaning="measured PCIe rates; the six links share 96 GB/s of host memory",
    ),
    ComparedMachine(
        name="CPU",
        machine="rtx3090x6,framework.layer_s=1e-3",
        meaning="measured PCIe rates; the serving framework takes 1 ms of CPU time per layer",
    ),
    ComparedMachine(name="A100", machine="a100-80gb", meaning="one A100 with 80 GB and one link"),
    ComparedMachine(
        name="serial",
        machine="rtx3090x6,demand_loading=serial",
        meaning="measured PCIe rates; experts that a layer waits for are copied one at a time over all links. These "
        "are demanded experts, and the prefetches of systems that wait for them (DeepSpeed, and MoE-Infinity and "
        "Mixtral-Offloading as in their papers). Other prefetches use all links at once",
    ),
)

COMPARED = Compared(
    systems=(*SYSTEMS, *ABLATIONS, *REFERENCES),
    traces=TRACES,
    cache_gb=(6.0, 12.0, 24.0),
    machines=MACHINES,
    base="PCIe",
    subject="FineMoE",
)
"""What `finemoe sim comparison` compares."""
