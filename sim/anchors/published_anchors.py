"""The anchors: numbers that others published, as data.

A value that a source does not state is derived here visibly, or assumed together with a variation of it.
"""

from policies.types import ModelShape
from sim.anchors.anchor import Anchor, AnchorPoint, Variation
from traces.published_models import published

TRANSFORMERS_VARIATIONS = (
    Variation(name="no CPU time", meaning="the serving framework takes no CPU time", machine="framework=none"),
    Variation(
        name="3 ms a layer",
        meaning="the framework takes 3 ms of CPU time in each layer, not 1 ms",
        machine="framework.layer_s=3e-3",
    ),
    Variation(name="slower link", meaning="copies reach three quarters of the assumed rate", machine="scale.link=0.75"),
    Variation(
        name="faster link", meaning="copies reach a quarter more than the assumed rate", machine="scale.link=1.25"
    ),
)

PAGEABLE = Variation(
    name="pageable copies", meaning="experts are copied from pageable memory", machine="copies=pageable"
)

# Model sizes from table 1 of arXiv 2312.17238, with attention in 16 bits. Of 46.7 billion weights, 45.1 billion belong
# to experts and 1.6 billion do not, which gives the bits per expert weight.
SIZE_GIB = {2: 19.33, 3: 23.21}


def bits_of_experts(model_gib: float) -> float:
    """Bits per expert weight of a Mixtral-8x7B of this size, if its other weights have 16 bits."""
    return (model_gib * 2**30 - 1.6e9 * 2) * 8 / 45.1e9


MOE_INFINITY = Anchor(
    key="a5000",
    title="Mixtral-8x7B on an RTX A5000 with 24 GB",
    unit="s per token",
    source="README of EfficientMoE/MoE-Infinity, table of per-token latencies",
    url="https://github.com/EfficientMoE/MoE-Infinity",
    shape=published("mixtral-8x7b"),
    machine="a5000",
    known=(
        "one RTX A5000 with 24 GB; prompts of LongBench, GSM8K, FLAN, BIG-Bench and MMLU mixed; MoE-Infinity in FP16, "
        "with three quarters of the GPU's memory for experts by default; per-token latency",
    ),
    assumed=(
        "latency is the decode time per token, without the prefill: the guide of MoE-Infinity's newer benchmark "
        "measures it that way; nothing confirms it for Mixtral-Offloading, DeepSpeed and Accelerate",
        "experts in FP16; 18 GB of them on the GPU, MoE-Infinity's default, also for Mixtral-Offloading; all weights "
        "in host memory, none on disk; batch 1; the link of a PCIe 4.0 x16 slot; 1 ms of CPU time per layer, since all "
        "four systems run on Transformers or PyTorch",
        "the routing is the one stated at the end, not that of Mixtral on those prompts",
    ),
    points=(
        AnchorPoint(
            name="MoE-Infinity",
            measured=0.735,
            policy="moe-infinity-code",
            cache_gb=18.0,
            assumed="the form of its code, with 70 % of the twin's requests as history",
        ),
        AnchorPoint(
            name="Mixtral-Offloading",
            measured=1.752,
            policy="mixtral-offloading-released",
            cache_gb=18.0,
            assumed="its released code, which does not prefetch, without quantisation",
        ),
        AnchorPoint(
            name="DeepSpeed",
            measured=2.486,
            policy="deepspeed",
            cache_experts=8,
            assumed="whole layers on demand, as in ZeRO-Inference; none stays on the GPU",
        ),
        AnchorPoint(
            name="Accelerate",
            measured=6.633,
            policy="deepspeed",
            cache_experts=8,
            machine="copies=pageable",
            assumed="as DeepSpeed, but from pageable memory, since its hooks move plain CPU tensors",
        ),
    ),
    variations=(
        *TRANSFORMERS_VARIATIONS,
        Variation(
            name=PAGEABLE.name,
            meaning=PAGEABLE.meaning,
            machine=PAGEABLE.machine,
            points=("MoE-Infinity", "Mixtral-Offloading", "DeepSpeed"),
        ),
        Variation(
            name="pinned copies",
            meaning="experts are copied from pinned memory",
            machine="copies=pinned",
            points=("Accelerate",),
        ),
        Variation(
            name="12 GB of experts",
            meaning="half of the GPU's memory holds experts, not three quarters",
            cache_gb=12.0,
            points=("MoE-Infinity", "Mixtral-Offloading"),
        ),
        Variation(
            name="18 GB stay",
            meaning="a fixed 18 GB of experts stay on the GPU, simulated by reducing the bytes of every expert's copy",
            bits=round(16 * (1 - 18e9 / (256 * published("mixtral-8x7b").expert_bytes)), 2),
            points=("DeepSpeed", "Accelerate"),
        ),
        Variation(
            name="quantised experts",
            meaning="Mixtral-Offloading as released: experts in 2 bits with their scales, four of each layer cached",
            bits=round(bits_of_experts(SIZE_GIB[2]), 2),
            cache_experts=128,
            points=("Mixtral-Offloading",),
        ),
    ),
    reading=(
        "MoE-Infinity: the twin's requests may resemble each other more or less than the mixed prompts do. That "
        "affects both what its matrices predict and what its cache keeps.",
        "Mixtral-Offloading: the source does not say whether its experts were quantised. Quantised experts take a "
        "fifth of the time to copy. What remains is CPU time and unpacking, and unpacking costs nothing here.",
        "DeepSpeed: the source does not say what it keeps on the GPU. Copying all experts for each token would need a "
        "link of 36 GB/s to reach the published time, more than PCIe 4.0 x16 has, so it keeps or skips some of them.",
        "Accelerate: the rate of pageable copies is an assumption, and the source does not say what its device map "
        "keeps on the GPU.",
    ),
)

_COLAB = ("Colab, 2 bits", 2)
_AZURE = ("Azure, 3 bits", 3)
_ALGORITHMS = (
    (
        "full algorithm",
        "mixtral-offloading+lru-by-layer",
        128,
        "four experts per layer, k = 4; a layer waits for its predicted experts, which theirs loads in the background",
    ),
    ("without pre-loading", "mixtral-offloading-released", 128, "four experts per layer, k = 4"),
    ("without LRU and pre-loading", "lru", 2, "nothing is kept from layer to layer"),
    ("naive (accelerate)", "deepspeed", 8, "the whole layer is copied for each token and nothing is kept"),
)
_MEASURED = {
    _COLAB: (2.092, 1.567, 1.168, 0.661),
    _AZURE: (1.603, 1.365, 1.061, 0.580),
}

MIXTRAL_OFFLOADING = Anchor(
    key="t4",
    title="Mixtral-8x7B with quantised experts on a T4 with 16 GB",
    unit="tokens/s",
    source="Eliseev, Mazur, arXiv 2312.17238, table 2",
    url="https://arxiv.org/abs/2312.17238",
    shape=published("mixtral-8x7b"),
    machine="t4",
    known=(
        "a T4 with 16 GB on PCIe Gen.3, in Google Colab's free tier for 2-bit experts and on Microsoft Azure for 3-bit "
        "ones; OpenAssistant conversations, sampled, batch 1; experts in 2 or 3 bits (HQQ), attention in 4; k = 4 "
        "experts of each layer cached; pinned host memory",
        "sizes of the quantised models (table 1), which give the bits per expert weight: "
        + " and ".join(f"{bits_of_experts(gib):.2f} for {bits} bits" for bits, gib in SIZE_GIB.items())
        + "; the text says 2.6 for 2 bits",
    ),
    assumed=(
        "12 GB/s over PCIe 3.0; 1 ms of CPU time per layer; experts read their weights in 16 bits when they compute, "
        "as if unpacking wrote and read them once; attention in 16 bits; one data sheet for both clouds",
        "the routing is the one stated at the end; only decode steps are timed",
    ),
    points=tuple(
        AnchorPoint(
            name=f"{algorithm}, {where}",
            measured=value,
            policy=policy,
            cache_experts=experts,
            bits=round(bits_of_experts(SIZE_GIB[bits]), 2),
            assumed=assumed,
        )
        for (where, bits), values in _MEASURED.items()
        for (algorithm, policy, experts, assumed), value in zip(_ALGORITHMS, values, strict=True)
    ),
    variations=(
        *TRANSFORMERS_VARIATIONS,
        PAGEABLE,
        Variation(
            name="2.6 bits",
            meaning="experts have 2.6 bits per weight, as stated in the text",
            bits=2.6,
            points=tuple(f"{algorithm[0]}, {_COLAB[0]}" for algorithm in _ALGORITHMS),
        ),
        Variation(
            name="3.0 bits",
            meaning="3-bit experts without scales and zero points",
            bits=3.0,
            points=tuple(f"{algorithm[0]}, {_AZURE[0]}" for algorithm in _ALGORITHMS),
        ),
        Variation(
            name="background loading",
            meaning="no layer waits for its predicted experts, as in the paper (`promoe` at distance 1)",
            policy="promoe,prefetch_distance=1+lru-by-layer",
            points=tuple(f"{_ALGORITHMS[0][0]}, {where}" for where, _ in _MEASURED),
        ),
    ),
    reading=(
        "Unpacking 2- and 3-bit weights takes GPU time that is not modelled, except for reading 16-bit weights, and "
        "two slow CPU cores may need more than 1 ms per layer.",
        "Without cache and pre-loading only two copies per layer remain, so this is the simplest check of link and "
        "bytes.",
        "The naive form may keep some layers on the GPU, and it copies from pageable memory. These have opposite "
        "effects.",
    ),
)

QWEN3_30B_A3B = ModelShape(
    name="qwen3-30b-a3b",
    layers=48,
    experts=128,
    top_k=8,
    hidden=2048,
    expert_ffn=768,
    attention_heads=32,
    kv_heads=4,
    head_dim=128,
    vocab=151936,
)

# Q4_K has 4.5 bits per weight and Q6_K 6.5625. Q4_K_M uses Q6_K for the down projection, one of an expert's three
# matrices, in half of the layers.
Q4_K_M_BITS = (5 * 4.5 + 6.5625) / 6
_SLOTS = ((24, 0.366, 10.51), (73, 0.741, 20.99), (146, 0.894, 30.51), (244, 0.962, 51.86))

IMP = Anchor(
    key="rtx5090",
    title="Qwen3-30B-A3B in Q4_K_M on an RTX 5090, all experts in host memory",
    unit="tokens/s",
    source="kekzl/imp #1374, table of expert-cache budgets",
    url="https://github.com/kekzl/imp/pull/1374",
    shape=QWEN3_30B_A3B,
    machine="rtx5090",
    known=(
        "an RTX 5090 under WSL2; an LRU cache per layer without prefetch; 256 decode tokens from a cold cache, prompt "
        "of 8 tokens, batch 1; the hit rate at each size; a slot holds one of an expert's three matrices, so 24 slots "
        "hold the 8 experts of one token (#1374: `3 · top_k`)",
        "the machine, from other measurements of the author: copies reach 25.6 GB/s (#1365); this model runs at 116.13 "
        "tokens/s with everything on the GPU and without CUDA graphs (#1368), which sets the CPU time per layer",
    ),
    assumed=(
        "the demands come from no routing: they are built so that an LRU cache of that size hits exactly as often as "
        "published; this tests the curve from hit rate to tokens/s",
        "each expert is one copy, not three; all weights are read at the experts' bits, as its kernels do",
    ),
    points=tuple(
        AnchorPoint(
            name=f"{slots} slots per layer (three per expert)",
            measured=measured,
            policy="mixtral-offloading-released",
            cache_experts=round(slots * 48 / 3),
            bits=round(Q4_K_M_BITS, 2),
            hit_rate=hit_rate,
            assumed=f"{slots / 3:.1f} experts per layer",
        )
        for slots, hit_rate, measured in _SLOTS
    ),
    variations=(
        Variation(name="no CPU time", meaning="the framework takes no CPU time", machine="framework=none"),
        Variation(
            name="more launches",
            meaning="CPU time per layer grows with the number of kernel launches: 61,585 with offloading, 52,024 with "
            "everything on the GPU (#1371)",
            machine=f"scale.cpu={52024 / 61585:.3f}",
        ),
        Variation(
            name="pageable copies",
            meaning="6.5 GB/s, the effective rate of copies under WSL2 with another model (#234)",
            machine="copies=pageable",
        ),
        Variation(
            name="faster link",
            meaning="54 GB/s, which the author reached later with batched copies",
            machine="host_link.bytes_per_s=54e9",
        ),
        Variation(
            name="host time of copies",
            meaning="each of an expert's three copies takes 44 µs of host time "
            "(the author later measured 31 to 56 µs with another model)",
            machine="host_link.latency_s=132e-6",
        ),
        Variation(name="6.56 bits", meaning="every matrix is copied at the size of the largest, Q6_K", bits=6.5625),
    ),
    reading=(
        "Each layer waits for the router's answer on the host before its copies begin (#1371). That synchronisation is "
        "not modelled, and the run that sets the CPU time, with everything on the GPU, does not have it.",
        "An expert takes three copies, each with its own host time, which is known only for a later version.",
        "The measured steps from size to size are not proportional to the misses, so no single rate can fit all four.",
    ),
    unpacked=False,
    tokens=256,
)

ANCHORS = (MOE_INFINITY, MIXTRAL_OFFLOADING, IMP)
"""The anchors that `finemoe sim anchors` simulates."""
