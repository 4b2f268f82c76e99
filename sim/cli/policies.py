"""`python -m sim policies`: what there is to choose from."""

import json as json_text
from textwrap import fill
from typing import Annotated

from cyclopts import Parameter

from policies.catalogue import Entry, catalogue


def policies(
    *, json: Annotated[bool, Parameter(help="Print an object with a list of policies and one of evictors.")] = False
) -> None:
    """List policies and evictors, what they need and their settings."""
    found = catalogue()
    if json:
        print(json_text.dumps(found, indent=2))
        return
    print("Policies: --policy NAME[,setting=value…], or module:callable of your own\n")
    print("\n".join(map(_lines, found["policies"])))
    print("\nEvictors, in place of a policy's own: --policy NAME…+EVICTOR[,setting=value…]\n")
    print("\n".join(map(_lines, found["evictors"])))


def _lines(each: Entry) -> str:
    indent = " " * 22
    lines = [fill(f"  {each['name']:<18}  {each['line']}", 120, subsequent_indent=indent)]
    if each["requires"]:
        lines.append(f"{indent}needs: {', '.join(map(_needed, each['requires']))}")
    if each["settings"]:
        settings = ", ".join(f"{key}={_shown(value)}" for key, value in each["settings"].items())
        lines.append(fill(f"{indent}settings: {settings}", 120, subsequent_indent=indent))
    return "\n".join(lines)


def _needed(what: str) -> str:
    """The column of a trace that a requirement stands for."""
    return {
        "embedding": "embeddings.parquet",
        "lookahead": "column lookahead_1",
        "future": "the future (read from the trace)",
    }.get(what, what)


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "…" if value is None else str(value)
