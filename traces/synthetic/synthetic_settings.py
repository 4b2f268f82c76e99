"""Settings of a synthetic trace: its shape, its statistics, and the lengths of its requests."""

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
    """The model whose routing is generated: that of another trace, a published one, or one of given sizes."""

    like: Path | None = None
    """Imitate this trace: take its shape, lengths, columns and every statistic that is not given."""
    model: str | None = None
    """Published model: mixtral-8x7b, qwen1.5-moe-a2.7b, phi-3.5-moe or gpt-oss-20b."""
    layers: Annotated[int, Ge(1)] | None = None
    """Number of MoE layers; may differ from the published model's. Default: 32."""
    experts: Annotated[int, Ge(1)] | None = None
    """Experts per layer. Default: 8."""
    top_k: Annotated[int, Ge(1)] | None = None
    """Experts that a token executes per layer. Default: 2."""
    hidden: Annotated[int, Ge(1)] | None = None
    """Embedding size. Default: 64."""
    vocab: Annotated[int, Ge(1)] | None = None
    """Vocabulary size in tokens. Default: 32000."""

    def __post_init__(self) -> None:
        check(self)
        if self.model is not None and self.like is not None:
            raise FieldError("model", "cannot be combined with `like`, which gives the shape")
        if self.like is None:
            self.sizes()

    def sizes(self, like: ModelShape | None = None) -> ModelShape:
        """The shape of `like`, of the published model, or of the given sizes."""
        own = {name: size for name in _SIZES if (size := getattr(self, name)) is not None}
        base = like if like is not None else published(self.model) if self.model is not None else None
        if base is not None:
            for name in own:
                if name != "layers" or like is not None:
                    raise FieldError(name, f"cannot be set, because {base.name} has {getattr(base, name)}")
            return replace(base, **own)
        sizes = _SIZES | own
        if sizes["top_k"] > sizes["experts"]:
            raise FieldError(
                "top_k", f"must be at most {sizes['experts']}, the number of experts in a layer, not {self.top_k}"
            )
        heads = max(1, sizes["hidden"] // 64)
        rest = {"attention_heads": heads, "kv_heads": heads, "head_dim": min(64, sizes["hidden"])}
        name = f"{sizes['layers']}x{sizes['experts']}-top{sizes['top_k']}"
        return ModelShape(name=name, **sizes, expert_ffn=4 * sizes["hidden"], **rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsSettings:
    """The statistics to reach, and the columns of the trace.

    A statistic that varies by layer takes one number for all layers or one per layer. An empty tuple means the value of
    `like`, or the default.
    """

    entropy: Annotated[tuple[float, ...], Ge(0)] = ()
    """Mean entropy of the gates of one decode iteration, in bits. Default: 0.6 · log2(experts)."""
    overlap: Annotated[tuple[float, ...], SHARE] = ()
    """Overlap of successive decode iterations. Default: 30 % of the way from chance to 1."""
    request_overlap: Annotated[tuple[float, ...], SHARE] = ()
    """Overlap of distant iterations of one request and topic. Default: 22 % of the way from chance to 1."""
    cluster_overlap: Annotated[tuple[float, ...], SHARE] = ()
    """Overlap of iterations of two requests in one cluster. Default: 15 % of the way from chance to 1."""
    token_overlap: Annotated[tuple[float, ...], SHARE] = ()
    """Overlap of iterations of two requests with the same token. Default: 45 % of the way from chance to 1."""
    load_cv: Annotated[tuple[float, ...], Ge(0)] = ()
    """Coefficient of variation (standard deviation / mean) of the experts' load. Default: 0.3."""
    trajectory_recall: Annotated[float, SHARE] | None = None
    """Recall of trajectory search, 3 layers ahead: the share of the executed experts that are in the top K of the
    nearest expert map. The store has 1,000 maps of other requests, and the request's own earlier maps. Default: what
    32 recurring token sequences per cluster give."""
    clusters: Annotated[int, Ge(1)] | None = None
    """Number of semantic clusters; each request belongs to one. Default: 16."""
    topic_change: Annotated[float, SHARE] = 0.0
    """Probability per iteration that the topic moves to another cluster."""
    drift: Annotated[float, SHARE] = 0.0
    """How much popularity and clusters change over the trace: those of the first and the last request have a
    correlation of 1 − drift."""
    token_similarity: Annotated[float, SHARE] = 0.6
    """Mean cosine similarity of the embeddings of two tokens in a cluster."""
    lookahead: Annotated[tuple[int, ...], Ge(1)] = ()
    """Also generate lookahead predictions of the routers, for each of these distances in layers, e.g. 1,3."""
    lookahead_recall: Annotated[float, SHARE] | None = None
    """Share of the executed experts in the top K of those predictions. Default: 0.8."""
    no_prefill: bool = False
    """Generate decode iterations only."""
    no_embeddings: bool = False
    """Generate no token embeddings."""
    seed: Annotated[int, Ge(0)] = 0
    """Random seed."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthSettings:
    """Number and lengths of the requests. Default: those of `like`, each used once."""

    requests: Annotated[int, Ge(1)] | None = None
    """Number of requests. Default: all of the workload or of the imitated trace, else 100."""
    prompt_tokens: Annotated[int, Ge(1)] | None = None
    """Length of every prompt. Default: 64."""
    output_tokens: Annotated[int, Ge(1)] | None = None
    """Length of every output. Default: 128."""
    workload: Path | None = None
    """Take lengths and arrivals from this file, as `finemoe traces fit` does."""

    def __post_init__(self) -> None:
        check(self)
