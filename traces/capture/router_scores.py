"""How a router's output becomes one number per expert that sums to 1.

Families differ (softmax, or sigmoids that are then normalised), and new ones appear with every release. A router mixes
its experts with weights that are its scores up to a common factor, so these weights tell the function.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

# Families whose weights are not in proportion to their scores, by `model_type`. PhiMoE mixes by a thresholded softmax
# per chosen expert, often 1 and 1, which large sigmoids would seem to fit.
DECLARED: Mapping[str, str] = {"phimoe": "softmax"}

_FITS = 0.01  # greatest mean deviation of a fit; bf16 routers deviate by 0.001, a wrong function by 0.05 and more


def scores(name: str, output: Tensor) -> Tensor:
    """`[…, J]` float32 that sums to 1 from a router's `output`, a float of the same shape.

    `name` is "softmax", "sigmoid" (divided by its sum) or "probabilities" (the router returns its softmax).
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
    """The name of the score function of a model from one pass.

    `output` `[T, L, J]` of the routers, `experts` `[T, L, K]` that ran and the `weights` `[T, L, K]` they were mixed
    with. Where neither fits, or K is 1 and both do, it is softmax, the usual meaning of logits.
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
