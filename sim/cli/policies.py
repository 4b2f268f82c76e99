"""`python -m sim policies`: what there is to choose from."""

import argparse
import inspect
import json
import re
from collections.abc import Callable
from textwrap import fill
from typing import Any

from common.errors import UserError
from policies.naming import settings_of
from policies.registry import EVICTORS, evictor_factory, policy_factory, policy_names

Entry = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--json", action="store_true", help="print an object with a list of policies and of evictors")


def run(args: argparse.Namespace) -> None:
    """Print all policies and evictors."""
    found = {
        "policies": [entry(name, policy_factory) for name in policy_names()],
        "evictors": [entry(name, evictor_factory) for name in sorted(EVICTORS)],
    }
    if args.json:
        print(json.dumps(found, indent=2))
        return
    print("Policies: --policy NAME[,setting=value…], or module:callable of your own\n")
    print("\n".join(map(_lines, found["policies"])))
    print("\nEvictors, in place of a policy's own: --policy NAME…+EVICTOR[,setting=value…]\n")
    print("\n".join(map(_lines, found["evictors"])))


def entry(name: str, factory_of: Callable[[str], Callable[..., Any]]) -> Entry:
    """What is told of one: its line, what a trace must have for it, its settings with their defaults."""
    factory = factory_of(name)
    settings = settings_of(factory)
    told = [key for key, default in settings.items() if default is not inspect.Parameter.empty]
    try:
        requires = sorted(factory().requires) if len(told) == len(settings) else None
    except UserError:
        requires = None  # it depends on settings
    return {
        "name": name,
        "line": _first_sentence(factory),
        "requires": requires,
        "settings": {key: settings[key] if key in told else None for key in settings},
    }


def _first_sentence(factory: Callable[..., Any]) -> str:
    paragraph = " ".join((inspect.getdoc(factory) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]


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
        "future": "the future (the simulator tells it)",
    }.get(what, what)


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "…" if value is None else str(value)
