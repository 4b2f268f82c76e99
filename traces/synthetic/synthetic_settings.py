"""What a synthetic trace is asked to be: its shape, its statistics, and the lengths of its requests."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Interval

from common.errors import FieldError
from common.settings import check
from policies.types import ModelShape
from traces.published_models import published

SHARE = Interval(ge=0, le=1)

_SIZES = {"layers": 32, "experts": 8, "top_k": 2, "hidden": 64, "vocab": 32000}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeSettings:
    """The model whose routing is drawn: like another trace's, a published one, or one of stated sizes."""

    like: Path | None = None
    """Take shape, lengths, columns and every statistic that is not given from this trace."""
    model: str | None = None
    """Published model: mixtral-8x7b, qwen1.5-moe-a2.7b, phi-3.5-moe or gpt-oss-20b."""
    layers: Annotated[int, Ge(1)] | None = None
    """Number of MoE layers; a published model may be drawn with fewer or more. By default 32."""
    experts: Annotated[int, Ge(1)] | None = None
    """Experts of a layer. By default 8."""
    top_k: Annotated[int, Ge(1)] | None = None
    """Experts that a token executes in a layer. By default 2."""
    hidden: Annotated[int, Ge(1)] | None = None
    """Size of an embedding. By default 64."""
    vocab: Annotated[int, Ge(1)] | None = None
    """Tokens of the vocabulary. By default 32000."""

    def __post_init__(self) -> None:
        check(self)
        if self.model is not None and self.like is not None:
            raise FieldError("model", f"cannot be combined with like, which gives the shape, value {self.model}")
        if self.like is None:
            self.sizes()

    def sizes(self, like: ModelShape | None = None) -> ModelShape:
        """The shape of `like`, of the published model, or of the sizes that are stated."""
        own = {name: size for name in _SIZES if (size := getattr(self, name)) is not None}
        base = like if like is not None else published(self.model) if self.model is not None else None
        if base is not None:
            for name, size in own.items():
                if name != "layers" or like is not None:
                    raise FieldError(name, f"{base.name} has {getattr(base, name)}, value {size}")
            return replace(base, **own)
        sizes = _SIZES | own
        if sizes["top_k"] > sizes["experts"]:
            raise FieldError("top_k", f"must be at most {sizes['experts']}, the experts of a layer, value {self.top_k}")
        heads = max(1, sizes["hidden"] // 64)
        rest = {"attention_heads": heads, "kv_heads": heads, "head_dim": min(64, sizes["hidden"])}
        name = f"{sizes['layers']}x{sizes['experts']}-top{sizes['top_k']}"
        return ModelShape(name=name, **sizes, expert_ffn=4 * sizes["hidden"], **rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsSettings:
    """The statistics that are asked for, and which columns the trace has.

    One that varies by layer has one number for all layers or one for each; without any it is that of `like`, or the
    default.
    """

    entropy: Annotated[tuple[float, ...], Ge(0)] = ()
    """Mean entropy of single decode iterations, in bits. By default 0.6 · log2(experts)."""
    overlap: Annotated[tuple[float, ...], SHARE] = ()
    """Overlap of a decode iteration with the one before. By default chance + 30 %."""
    request_overlap: Annotated[tuple[float, ...], SHARE] = ()
    """Overlap of iterations of one request and topic, far apart. By default chance + 22 %."""
    cluster_overlap: Annotated[tuple[float, ...], SHARE] = ()
    """Overlap of iterations of two requests of a cluster. By default chance + 15 %."""
    token_overlap: Annotated[tuple[float, ...], SHARE] = ()
    """Overlap of iterations of two requests with the same token. By default chance + 45 %."""
    load_cv: Annotated[tuple[float, ...], Ge(0)] = ()
    """Popularity of experts: standard deviation of their load over its mean. By default 0.3."""
    trajectory_recall: Annotated[float, SHARE] | None = None
    """Share of the executed experts in the top K of the nearest map, 3 layers ahead, among 1,000 maps of other requests
    and those before in the request. By default what 32 phrases of tokens in each cluster give."""
    clusters: Annotated[int, Ge(1)] | None = None
    """Semantic clusters; a request belongs to one. By default 16."""
    topic_change: Annotated[float, SHARE] = 0.0
    """Probability per iteration that the topic moves to another cluster."""
    drift: Annotated[float, SHARE] = 0.0
    """How far popularity and clusters move: those of the last request correlate by 1 − drift with the first one's."""
    token_similarity: Annotated[float, SHARE] = 0.6
    """Mean cosine of the embeddings of two tokens of a cluster."""
    lookahead: Annotated[tuple[int, ...], Ge(1)] = ()
    """Also draw what routers this many layers ahead would say, e.g. 1,3."""
    lookahead_recall: Annotated[float, SHARE] | None = None
    """Share of the executed experts in the top K of what they would say. By default 0.8."""
    no_prefill: bool = False
    """Draw decode iterations only."""
    no_embeddings: bool = False
    """Draw no embeddings of tokens."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthSettings:
    """How many requests there are, and how long they are. By default as in `like`, each once."""

    requests: Annotated[int, Ge(1)] | None = None
    """Number of requests. By default 100, or all of the workload."""
    prompt_tokens: Annotated[int, Ge(1)] | None = None
    """Length of every prompt. By default 64."""
    output_tokens: Annotated[int, Ge(1)] | None = None
    """Length of every output. By default 128."""
    workload: Path | None = None
    """Take lengths and arrivals from this file, as `traces fit` does."""

    def __post_init__(self) -> None:
        check(self)
