"""Convert a router's output to one score per expert, with sum 1.

Model families use different functions (softmax, or normalised sigmoids), and new families appear with every release. A
model weighs its experts in proportion to their scores, so the weights reveal the function.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

# Families whose weights are not proportional to their scores, by `model_type`. PhiMoE uses a thresholded softmax per
# chosen expert, often 1 and 1, which large sigmoids would seem to fit.
DECLARED: Mapping[str, str] = {"phimoe": "softmax"}

_FITS = 0.01  # largest mean deviation of a fit; bf16 routers deviate by 0.001, a wrong function by 0.05 or more


def scores(name: str, output: Tensor) -> Tensor:
    """Scores `[…, J]` float32 with sum 1 from a router's `output`, floats of the same shape.

    `name` is "softmax", "sigmoid" (divided by its sum) or "probabilities" (the router already returns its softmax).
    """
    wide = output.float()
    if name == "softmax":
        return torch.softmax(wide, -1)
    if name == "sigmoid":
        wide = torch.sigmoid(wide)
    elif name != "probabilities":
        raise ValueError(f"no score function is called {name!r}")
    return wide / wide.sum(-1, keepdim=True)


def fitting_score(output: Tensor, experts: Tensor, weights: Tensor | None) -> str:
    """The name of a model's score function, determined from one pass.

    `output` `[T, L, J]` of the routers, executed `experts` `[T, L, K]` and their `weights` `[T, L, K]`. It is softmax,
    the usual meaning of logits, if neither function fits, or if K is 1 and both do.
    """
    wide = output.float()
    if bool((wide >= 0).all()) and bool(((wide.sum(-1) - 1).abs() < 1e-2).all()):
        return "probabilities"
    if weights is None:
        return "softmax"
    misfit = {name: _misfit(scores(name, wide), experts, weights) for name in ("softmax", "sigmoid")}
    return "sigmoid" if misfit["sigmoid"] < min(misfit["softmax"], _FITS) else "softmax"


def _misfit(score: Tensor, experts: Tensor, weights: Tensor) -> float:
    """Mean absolute difference between the scores of the chosen experts and their weights, both summing to 1."""
    chosen = score.gather(-1, experts.long())
    chosen = chosen / chosen.sum(-1, keepdim=True)
    wide = weights.float()
    return float((chosen - wide / wide.sum(-1, keepdim=True)).abs().mean())
