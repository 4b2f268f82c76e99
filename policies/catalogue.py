"""The list of policies and evictors, with what each needs from a trace and its settings."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from common.errors import UserError, unknown
from policies.base import Evictor, Policy
from policies.policy_settings import Setting, settings_of
from policies.registry import EVICTORS, evictor_factory, make, make_evictor, policy_factory, policy_names

Entry = dict[str, Any]


def catalogue(names: Sequence[str] = ()) -> dict[str, list[Entry]]:
    """An entry for each policy and each evictor, or only for `names`, which may include `module:callable`.

    An evictor class from outside is listed with the evictors, and so is a function that returns an evictor when it is
    called without settings.
    """
    policies = policy_names()
    for name in names:
        if ":" not in name and name not in {*policies, *EVICTORS}:
            raise unknown("policy or evictor", name, {*policies, *EVICTORS})
    asked = list(dict.fromkeys(names))
    found: dict[str, list[Entry]] = {"policies": [], "evictors": []}
    for name in asked or policies:
        if ":" in name or name in policies:
            factory = policy_factory(name)
            made, entry = _entry(name, "policy", factory, make)
            evicts = isinstance(made, Evictor) or (isinstance(factory, type) and issubclass(factory, Evictor))
            found["evictors" if evicts else "policies"].append(entry)
    for name in asked or sorted(EVICTORS):
        if name in EVICTORS:
            found["evictors"].append(_entry(name, "evictor", evictor_factory(name), make_evictor)[1])
    return found


def _entry(
    name: str, kind: str, factory: Callable[..., object], make_it: Callable[[str], Policy | Evictor]
) -> tuple[Policy | Evictor | None, Entry]:
    """What a name makes without settings, and its entry in the list."""
    settings = settings_of(factory, f"{kind} {name}")
    made, problem = None, None
    if not any(setting.required for setting in settings.values()):
        try:
            made = make_it(name)
        except UserError as error:  # its defaults may not go together
            problem = str(error)
    return made, {
        "name": name,
        "line": _first_sentence(factory),
        "requires": sorted(made.requires) if made is not None else None,
        "settings": {key: _described(setting) for key, setting in settings.items()},
        "problem": problem,
    }


def _described(setting: Setting) -> Entry:
    """A setting as plain data: its type (`choice` if it only has choices), whether it may be none, its default."""
    default = None if setting.required else setting.default
    return {
        "type": setting.kind.__name__ if setting.kind else "choice",
        "choices": list(setting.choices) or None,
        "nullable": setting.nullable,
        "default": default if isinstance(default, bool | int | float | str | None) else str(default),
        "required": setting.required,
    }


def _first_sentence(factory: Callable[..., object]) -> str:
    text = inspect.cleandoc(factory.__doc__ or "")  # not that of a base class
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]
