"""The origins of the figures behind each part of a cost: measured, stated by a data sheet or paper, or assumed."""

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, get_args

Origin: TypeAlias = Literal["measured", "stated", "assumed"]
Origins: TypeAlias = Mapping[str, tuple[Origin, ...]]
"""The origins of the figures of each part of a cost, in the order of `Origin`; empty if the part is not modelled."""

NO_SOURCE = "not stated"

_WORDS = {"measured": "measured", "stated": "from data sheets", "assumed": "assumed"}


def origin_of(source: str) -> Origin:
    """The origin of a figure with this source, which begins with "measured" or "assumption" or names who states it."""
    if source.startswith("measured"):
        return "measured"
    return "assumed" if source.startswith(("assumption", NO_SOURCE)) else "stated"


def origins_of(sources: Iterable[str]) -> tuple[Origin, ...]:
    """The origins of the figures of one part; a part without any source is assumed."""
    found = {origin_of(source) for source in sources} or {"assumed"}
    return tuple(origin for origin in get_args(Origin) if origin in found)


def origins_text(origins: Origins) -> str:
    """A sentence: `measured and assumed: copies; from data sheets: computing; not modelled: contention`."""
    parts: dict[tuple[Origin, ...], list[str]] = {}
    for part, found in sorted(origins.items(), key=lambda item: (not item[1], _rank(item[1]))):
        parts.setdefault(tuple(found), []).append(part)
    return "; ".join(
        f"{' and '.join(_WORDS[origin] for origin in found) or 'not modelled'}: {', '.join(names)}"
        for found, names in parts.items()
    )


def _rank(found: tuple[Origin, ...]) -> list[int]:
    return [get_args(Origin).index(origin) for origin in found]
