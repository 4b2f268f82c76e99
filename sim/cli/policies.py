"""`finemoe sim policies`: list policies and evictors, and their settings."""

import json as json_text
from textwrap import fill
from typing import Annotated, Any

from cyclopts import Parameter

from common.folding import WIDTH
from policies.catalogue import Entry, catalogue

INDENT = " " * 22


def policies(
    *names: Annotated[
        str, Parameter(help="Policies or evictors to show; your own module:callable works, too. Default: all.")
    ],
    json: Annotated[bool, Parameter(help="Print a JSON object with a list of policies and one of evictors.")] = False,
) -> None:
    """List policies and evictors, what they need from a trace, and their settings."""
    found = catalogue(names)
    if json:
        print(json_text.dumps(found, indent=2))
        return
    heads = {
        "policies": "Policies: --policy NAME[,setting=value…], or your own module:callable",
        "evictors": "Evictors, to replace a policy's own: --policy NAME…+EVICTOR[,setting=value…]",
    }
    print("\n\n".join("\n".join([f"{heads[kind]}\n", *map(_lines, each)]) for kind, each in found.items() if each))


def _lines(each: Entry) -> str:
    lines = [_filled(f"  {each['name']:<18}  {each['line']}".rstrip())]
    if each["requires"]:
        lines.append(_filled(f"{INDENT}needs: {', '.join(map(_needed, each['requires']))}"))
    if each["settings"]:
        settings = (_setting(name, about).replace(" ", "\xa0") for name, about in each["settings"].items())
        lines.append(_filled(f"{INDENT}settings: {', '.join(settings)}").replace("\xa0", " "))
    if each["problem"]:
        lines.append(_filled(f"{INDENT}without settings: {each['problem']}"))
    return "\n".join(lines)


def _filled(text: str) -> str:
    return fill(text, WIDTH, subsequent_indent=INDENT, break_on_hyphens=False)


def _needed(what: str) -> str:
    """The part of a trace that a requirement names."""
    others = {"embedding": "embeddings.parquet", "future": "the future (read from the trace)"}
    return others.get(what, f"column {what}")


def _setting(name: str, about: dict[str, Any]) -> str:
    """`NAME=DEFAULT (TYPE)`, or `NAME (TYPE, required)`."""
    plain = [about["type"]] if about["type"] != "choice" else []
    kinds = "|".join([*plain, *map(str, about["choices"] or ()), *["none"] * about["nullable"]])
    return f"{name} ({kinds}, required)" if about["required"] else f"{name}={_shown(about['default'])} ({kinds})"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool | None) else str(value)
