"""What there is to choose from: policies and evictors, what each needs of a trace, and its settings."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from common.errors import UserError
from policies.naming import settings_of
from policies.registry import EVICTORS, evictor_factory, policy_factory, policy_names

Entry = dict[str, Any]


def catalogue() -> dict[str, list[Entry]]:
    """An entry for each policy and each evictor, by name."""
    return {
        "policies": [entry(name, policy_factory) for name in policy_names()],
        "evictors": [entry(name, evictor_factory) for name in sorted(EVICTORS)],
    }


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
