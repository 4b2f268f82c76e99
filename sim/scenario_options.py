"""Scenarios on the command line: an option per field, and a scenario file whose values the options override."""

import functools
import inspect
import traceback
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_type_hints

from cyclopts import Group, Parameter

from common.applications import OUTPUT, option
from common.errors import FieldError, PolicyCodeError, UserError
from common.outputs import file, is_within, reserved
from common.settings import check_suffix, descriptions
from sim.experiment import FieldPath, read_experiment
from sim.scenario import Scenario

RUN = Group("What to run", sort_key=40)
MACHINE = Group("Machine and cache", sort_key=50)

_GROUPS = {
    RUN: ("trace", "policy", "sizes", "history", "train_split", "requests", "batch_size", "seed"),
    MACHINE: ("machine", "cache", "placement", "counts", "replicas", "chunk_bytes", "prefetch"),
    OUTPUT: ("detail", "check"),
}
FIELDS = tuple(field for group in _GROUPS.values() for field in group)
"""The fields that have an option."""

_Command: TypeAlias = Callable[..., int | None]  # its exit status, if it is not 0


def takes_scenario(*names: str, recorded_by: str | None = None) -> Callable[[_Command], _Command]:
    """Decorate a command, a function of an `Experiment` and its own options, with an option for each of these fields.

    The command also gets `--scenario FILE.toml` (a file to start from, also accepted in place of the trace),
    `--save-scenario FILE.toml`, and `--traceback` for authors of policies. Several policies become an axis of the
    experiment. A command that records the trace itself names its own option for the trace's place in `recorded_by`.
    """

    def decorate(command: _Command) -> _Command:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        paths = {"_".join(path): path for path in _paths(names)}
        offered = [_parameter(name, path) for name, path in paths.items()]
        signature = inspect.Signature(sorted([*offered, _FILE, *own, _SAVE, _TRACEBACK], key=lambda each: each.kind))

        @functools.wraps(command)
        def called(*arguments: Any, **options: Any) -> int | None:
            given = signature.bind(*arguments, **options).arguments
            if (first := given.get("trace")) and first.suffix == ".toml":  # a scenario, since traces are folders
                if _FILE.name in given:
                    raise FieldError(_FILE.name, f"is given twice: {given[_FILE.name]} and {first}")
                given[_FILE.name] = given.pop("trace")
            fields_given = {path: given[name] for name, path in paths.items() if name in given}
            if recorded_by:
                fields_given["trace",] = given.get(recorded_by, "routing.trace")
            experiment = read_experiment(given.get(_FILE.name), fields_given)
            saved = given.get(_SAVE.name)
            if saved and recorded_by and recorded_by not in given:
                raise FieldError(_SAVE.name, f"needs `{recorded_by}`, because a scenario names its trace")
            check_suffix(_SAVE.name, saved, ".toml")
            for name in _OTHERS:
                if saved and (other := given.get(name)) and is_within(saved, other):
                    raise UserError(f"`{_SAVE.name}` {saved} and `{name}` {other} must not lie within each other")
            place = reserved(
                file(saved, reads=_only_scenario),
                overwrite=given.get("overwrite", False),
                inputs=[given.get(_FILE.name)],
            )
            try:
                with place:
                    status = command(experiment, **{each.name: given[each.name] for each in own if each.name in given})
                    if saved:
                        experiment.write(saved)
                return status
            except UserError as error:
                if error.__cause__ and given.get(_TRACEBACK.name):
                    traceback.print_exception(error.__cause__)
                elif error.__cause__ and isinstance(error, PolicyCodeError):
                    raise UserError(f"{error} (`traceback` shows where)") from error.__cause__
                raise

        called.__signature__ = signature  # type: ignore[attr-defined]
        return called

    return decorate


def _only_scenario(path: Path) -> None:
    """Raise a `UserError` unless the file is a scenario, or several that differ in the policy alone."""
    axes = read_experiment(path, {}).axes
    if set(axes) - {"policy"}:
        raise UserError(f"it is a sweep over {', '.join(axes)}")


def _paths(names: tuple[str, ...]) -> Iterator[FieldPath]:
    """The paths of fields; a field that is itself a group of settings gives a path for each of its own fields."""
    hints = get_type_hints(Scenario)
    for name in names:
        if is_dataclass(hints[name]):
            yield from ((name, inner.name) for inner in fields(hints[name]))
        else:
            yield (name,)


def _parameter(name: str, path: FieldPath) -> inspect.Parameter:
    """The option of a field. Its default is only shown: the scenario fills it in."""
    kind: Any = Scenario
    shown: Any = MISSING
    for part in path:
        field = next(each for each in fields(kind) if each.name == part)
        shown = field.default if kind is Scenario else getattr(shown, part)
        owner, hint = kind, get_type_hints(kind, include_extras=True)[part]
        kind = hint
    group = next(group for group, names in _GROUPS.items() if path[0] in names)
    positional = path == ("trace",)
    several = path == ("policy",)
    description = descriptions(owner)[path[-1]]
    if positional:
        description = f"{description.removesuffix('.')}, or a scenario (FILE.toml)."
    about = Parameter(
        name=None if positional else option(name),
        group=group,
        help=f"{description} Repeat to compare several policies." if several else description,
        show_default=_shown_default(shown),
        negative=f"--no-{name.replace('_', '-')}" if shown is True else (),
        required=False,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD if positional else inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[tuple[str, ...] if several else hint, about],
    )


def _shown_default(default: object) -> Callable[[Any], str] | bool:
    """How the help shows a default; not at all for a switch or an unset value."""
    if default is None or isinstance(default, bool) or default is MISSING:
        return False
    return lambda value: str(default)


_FILE = inspect.Parameter(
    "scenario",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        Parameter(
            group=RUN,
            help="Start from the scenario in FILE.toml; options override it. Its paths are relative to the current "
            "folder.",
        ),
    ],
)
_OTHERS = ("out", "plot", "record")  # outputs that a command may have beside a saved scenario
_SAVE = inspect.Parameter(
    "save_scenario",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[Path | None, Parameter(group=OUTPUT, help="Write the scenario to FILE.toml once it has run.")],
)
_TRACEBACK = inspect.Parameter(
    "traceback",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool, Parameter(group=OUTPUT, help="If your own policy raises an error, print its traceback above the message.")
    ],
)
