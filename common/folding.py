"""Text folded into lines of 100 columns."""

import re
from textwrap import wrap

WIDTH = 100  # characters of a line
NAME_WIDTH = 28  # characters of a policy's name in a line of a table


def folded(text: str, width: int = WIDTH, indent: str = "") -> str:
    """Fold a text into lines of at most `width` characters, at spaces, but not between a number and its unit."""
    tied = re.sub(r" (?=(?:GB|MB|kB|B|ms|µs|layers|×)\b|× )", "\u00a0", text)
    lines = wrap(tied, width, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines).replace("\u00a0", " ")


def folded_name(name: str, width: int, indent: str = "   ") -> str:
    """Fold a policy's name into lines of at most `width` characters, after punctuation if possible."""
    lines = [""]
    for piece in re.findall(r"[^.,:+ -]*[.,:+ -]|[^.,:+ -]+", name):
        if lines[-1].strip() and len(lines[-1]) + len(piece) > width:
            lines.append(indent)
        while len(lines[-1]) + len(piece) > width:
            room = width - len(lines[-1])
            lines[-1] += piece[:room]
            lines.append(indent)
            piece = piece[room:]
        lines[-1] += piece
    return "\n".join(lines)
