"""Axes: the fields of a scenario that an experiment varies, with dotted names.

`cache.gb` is the field `gb` of the scenario's cache. `policy.prefetch_distance` is a setting of its policy; a policy
without this setting runs once. `machine.host_link.bytes_per_s` is a figure of its machine, and is written into the
machine's text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias, get_type_hints

from common.errors import FieldError, UserError, nearest
from common.settings import from_data, to_data
from policies.naming import parts_of
from policies.policy_settings import settings_of
from policies.registry import policy_factory
from sim.hardware import machine_text
from sim.hardware.machine_files import keys_of_data_sheets
from sim.scenario import NO_EFFECT, Scenario

Value: TypeAlias = str | int | float | bool
Point: TypeAlias = Mapping[str, Value]
"""A value for each of some axes."""

SETTING = "policy."  # prefix of a policy's setting
FIGURE = "machine."  # prefix of a machine's figure


def flattened(table: Any, field: str) -> dict[str, Any]:
    """Replace nested tables by dotted names: `{"cache": {"gb": …}}` becomes `{"cache.gb": …}`."""
    if not isinstance(table, Mapping):
        raise FieldError(field, f"must be a table, not {table!r}")
    flat: dict[str, Any] = {}
    for name, value in table.items():
        inner = flattened(value, f"{field}.{name}") if isinstance(value, Mapping) else None
        for dotted, each in {name: value}.items() if inner is None else inner.items():
            full = dotted if inner is None else f"{name}.{dotted}"
            if full in flat:
                raise FieldError(f"{field}.{full}", "is given twice")
            flat[full] = each
    return flat


def check_axis(name: str, field: str, policies: Sequence[str]) -> None:
    """Raise a `FieldError` unless `name` is a field of a scenario, a figure of a machine or a setting of a policy."""
    if name.startswith(SETTING):
        setting = name.removeprefix(SETTING)
        known = {each for policy in policies for each in _settings(policy)}
        if setting not in known:
            hint = nearest(setting, known) if known else "none of the policies has settings"
            raise FieldError(field, f"no policy of this experiment has a setting {setting!r}; {hint}")
        return
    if name.startswith(FIGURE):
        if (figure := name.removeprefix(FIGURE)) not in (figures := keys_of_data_sheets()):
            raise FieldError(field, f"no machine has a figure {figure!r}; {nearest(figure, figures)}")
        return
    if name in NO_EFFECT:
        raise FieldError(field, f"does not affect results and cannot be an axis; set it in `scenario.{name}`")
    known = set(_field_names())
    if name not in known:
        raise FieldError(field, f"is not a field of a scenario; {nearest(name, known)}")


def check_value(value: Any, field: str) -> Value:
    """The value as a plain Python object. Raises a `FieldError` unless it is a text, a number or a Boolean."""
    plain = value.item() if hasattr(value, "item") else value
    if not isinstance(plain, str | int | float | bool):
        raise FieldError(field, f"must be a string, a number, true or false, not {value!r}")
    return plain


def applied(base: Scenario, point: Point) -> tuple[Scenario, dict[str, Value]]:
    """The base with the values of a point, and the point without settings that the policy lacks.

    A cache size in the point replaces the base's, whichever field has it. Raises a `UserError` if no such scenario is
    possible.
    """
    data = to_data(base)
    used: dict[str, Value] = {}
    data |= {outer: {} for outer, dot, _ in map(_parted, point) if dot and not in_text(f"{outer}.")}
    for name, value in point.items():
        outer, dot, inner = _parted(name)
        if not dot:
            data[outer] = value
        elif not in_text(name):
            data[outer][inner] = value
        else:
            continue
        used[name] = value
    for name, value in point.items():
        if name.startswith(SETTING) and name.removeprefix(SETTING) in _settings(str(data["policy"])):
            data["policy"] = _with_setting(str(data["policy"]), name.removeprefix(SETTING), value)
            used[name] = value
        elif name.startswith(FIGURE):
            _check_not_set(str(data["machine"]), name, value)
            data["machine"] = with_figure(str(data["machine"]), name.removeprefix(FIGURE), value)
            used[name] = value
    return from_data(Scenario, data), {name: used[name] for name in point if name in used}


def in_text(name: str) -> bool:
    """Whether an axis is part of the text of a policy or a machine, not a field of the scenario."""
    return name.startswith((SETTING, FIGURE))


def figures_set(machine: str) -> dict[str, str]:
    """The figures that a machine's text sets after the name."""
    return machine_text.parts_of(machine)[1]


def with_figure(machine: str, figure: str, value: Value) -> str:
    """The machine's text with a figure set to a value, replacing an older one."""
    name, own = machine_text.parts_of(machine)
    return machine_text.text_of(name, own | {figure: _text(value)})


def _parted(name: str) -> tuple[str, str, str]:
    return name.partition(".")


def _field_names() -> Iterable[str]:
    for name, kind in get_type_hints(Scenario).items():
        if is_dataclass(kind):
            yield from (f"{name}.{inner.name}" for inner in fields(kind))
        elif name not in NO_EFFECT:
            yield name


def _settings(policy: str) -> Iterable[str]:
    """The names of a policy's settings; none for an unknown policy, which is reported when it runs."""
    name = parts_of(policy)[0].partition(",")[0]
    try:
        return settings_of(policy_factory(name), f"policy {name}")
    except UserError:
        return ()


def _with_setting(policy: str, setting: str, value: Value) -> str:
    """The policy's text with a setting added to its first part."""
    text = _text(value)
    first, *others = parts_of(policy)
    if any(word.partition("=")[0] == setting for word in first.split(",")[1:]):
        raise FieldError(f"{SETTING}{setting}", f"cannot be {text}, because policy {policy} already sets it")
    return "+".join([f"{first},{setting}={text}", *others])


def _check_not_set(machine: str, name: str, value: Value) -> None:
    """Raise a `FieldError` on the axis `name` if the machine's text already sets this figure."""
    if name.removeprefix(FIGURE) in figures_set(machine):
        raise FieldError(name, f"cannot be {_text(value)}, because machine {machine} already sets it")


def _text(value: Value) -> str:
    """A value as written in the text of a policy or a machine."""
    if isinstance(value, float):
        short = f"{value:.6g}"
        return short if float(short) == value else repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
