"""How much of the paper runs: everything, a smaller version, or just enough to see that it works."""

from dataclasses import dataclass
from typing import Literal

TierName = Literal["full", "quick", "kick-the-tires"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """The size of a reproduction."""

    name: TierName
    test_requests: int
    """Test requests per trace in figures 10 and 17, which give the paper's means. Figure 4 uses as many, at most 16."""
    sweep_requests: int
    """Test requests per trace in the other figures with runs. Figure 16b uses at least as many as its largest batch,
    the implied testbed one. Figures 3, 8 and 9 sample up to 64 requests of the whole trace."""
    prompts: int | None
    """Prompts of each set that a twin reads, including the history; None: the whole set."""
    new_tokens: int
    """Upper limit on generated tokens."""
    prompt_sets: int = 2
    """How many of the two stand-ins for prompts the twins read."""
    thin: bool = False
    """Only two or three points of each axis."""
    caution: str = ""
    """A warning to readers of its results, in a sentence."""


FULL = Tier(name="full", test_requests=32, sweep_requests=8, prompts=None, new_tokens=127)  # the paper runs 64
QUICK = Tier(
    name="quick",
    test_requests=8,
    sweep_requests=2,
    prompts=27,
    new_tokens=127,
    caution="QUICK: a draft with few requests and a short history.",
)
KICK_THE_TIRES = Tier(
    name="kick-the-tires",
    test_requests=1,
    sweep_requests=1,
    prompts=7,
    new_tokens=16,
    prompt_sets=1,
    thin=True,
    caution="KICK-THE-TIRES: one short request per trace, so the results mean nothing.",
)
TIERS = (FULL, QUICK, KICK_THE_TIRES)
