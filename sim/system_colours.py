"""One colour per system, the same in every picture; the forms of a system share it."""

from common.figures import BLUE, CYAN, GREEN, GREY, MAROON, NAVY, ORANGE, RED
from policies.naming import parts_of

_BY_POLICY = {
    "finemoe": BLUE,
    "promoe": ORANGE,
    "moe-infinity": GREEN,
    "mixtral-offloading": RED,
    "deepspeed": GREY,
    "lru": NAVY,
    "belady": CYAN,
}
OTHER = MAROON


def colour_of(policy: str) -> str:
    """The colour of a policy's system, whatever its settings, evictor and form."""
    name = parts_of(policy)[0].partition(",")[0]
    return next((colour for system, colour in _BY_POLICY.items() if name.startswith(system)), OTHER)
