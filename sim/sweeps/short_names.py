"""Names that fit into a table: long policies and paths are shortened, and a legend explains them."""

import re
from collections.abc import Iterator, Sequence

from sim.sweeps.sweep_columns import Setting, value_text


def short_names(names: Sequence[str], width: int) -> dict[str, str]:
    """For each name, a unique one of at most `width` characters.

    A path is shortened to its last part if that is unique, a policy to its name and letters.
    """
    last = [name.rpartition("/")[2] for name in names]
    answer: dict[str, str] = {}
    numbered = 0
    for name, end in zip(names, last, strict=True):
        if len(name) <= width:
            answer[name] = name
        elif len(end) <= width and end and last.count(end) == 1 and end not in names:
            answer[name] = end
        else:
            mark = _letters(numbered)  # a number would look like a value
            numbered += 1
            start = re.split(r"[,+]", end)[0]
            answer[name] = f"{start[: width - 1 - len(mark)]}…{mark}"
    return answer


def _letters(number: int) -> str:
    """a … z, aa, ab, …"""
    before, last = divmod(number, 26)
    return (_letters(before - 1) if before else "") + chr(ord("a") + last)


def legend(shortened: dict[str, str]) -> Iterator[str]:
    """A line for each name that was shortened."""
    return (f"{short} = {name}" for name, short in shortened.items() if short != name)


class SettingNames:
    """The names of a sweep's settings: `cache.share=0.25, batch_size=4`."""

    def __init__(self, axes: Sequence[str], settings: Sequence[Setting], width: int) -> None:
        self.axes = tuple(axes)
        texts = [value_text(value) for setting in settings for value in setting]
        self.shortened = short_names(list(dict.fromkeys(texts)), width)

    def values(self, setting: Setting) -> list[str]:
        """The shortened value of each axis."""
        return [self.shortened[value_text(value)] for value in setting]

    def text(self, setting: Setting) -> str:
        """The setting on one line; axes without a value are left out."""
        values = zip(self.axes, self.values(setting), setting, strict=True)
        return ", ".join(f"{axis}={text}" for axis, text, value in values if value is not None) or "all runs"
