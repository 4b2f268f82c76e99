"""Profiles: the measured times of one model on one machine, as a `Machine` and its costs.

A profile is a TOML file that `finemoe validate calibrate` writes. Times between its points are interpolated linearly;
sizes outside them are an error, because nothing was measured there.
"""

import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from common.errors import FieldError, UserError
from common.settings import from_data, to_data
from common.toml_files import Section, read_toml, toml_text, write_toml
from policies.types import ModelShape, Search
from sim.hardware.costs import comparing_s
from sim.hardware.effects import DemandLoading
from sim.hardware.origins import Origins
from sim.hardware.parts import Contention, Framework, Host, effects_of

_SIZES = {"expert": "tokens", "dense": "tokens", "head": "rows", "copy": "bytes"}  # the unit of each table's sizes
# Bytes by layer are not compared: copies are looked up by their bytes anyway.
_MODEL = [each.name for each in fields(ModelShape) if each.name != "expert_bytes_by_layer"]
EFFECTS = {"host": Host, "framework": Framework, "contention": Contention}
"""The optional sections of a file."""
_PARTS = {"host": "host memory", "framework": "CPU time", "contention": "contention"}
KEYS = frozenset({"name", "gpus", "demand_loading", "model", "measured", *_SIZES, "driving", "search", *EFFECTS})
"""The keys of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Seconds at the measured sizes: at least one, in rising order."""

    sizes: tuple[int, ...]  # [n] tokens, rows or bytes
    seconds: tuple[float, ...]  # [n]

    def at(self, size: int) -> float | None:
        """The time at a size, linear between two points; None outside the measured range."""
        sizes, seconds = self.sizes, self.seconds
        if not sizes[0] <= size <= sizes[-1]:
            return None
        right = bisect_left(sizes, size)
        if sizes[right] == size:
            return seconds[right]
        share = (size - sizes[right - 1]) / (sizes[right] - sizes[right - 1])
        return seconds[right - 1] + share * (seconds[right] - seconds[right - 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Times of the parts of an iteration of `model` on one machine with `gpus` logical devices.

    Attention takes the time in table `dense`, plus `dense_s_per_attended` for each (token, position) pair. Effects
    between the parts are off unless they were measured. Raises a `UserError` if a value is impossible.
    """

    name: str
    gpus: int
    model: ModelShape
    expert: Table  # one routed expert, by tokens
    dense: Table  # attention, router and shared experts of one layer, by tokens
    dense_s_per_attended: float
    most_attended: int  # the largest measured number of (token, position) pairs
    head: Table  # the output projection, by rows
    driving_s: float  # time to drive the offloading in each layer, after its last expert
    copy: Table  # a chunk of an expert from host memory to its device, by bytes
    copy_latency_s: float  # the part of each copy in which no bytes move
    search_overhead_s: float  # per search; this and the next two as in `SearchRates`
    search_bytes_per_s: float
    search_flops_per_s: float
    host: Host = field(default_factory=Host)
    framework: Framework = field(default_factory=Framework)  # if it is not part of the other times
    contention: Contention = field(default_factory=Contention)
    demand_loading: DemandLoading = "parallel"
    measured: dict[str, str | int | float] = field(default_factory=dict)  # where and how; free form
    assumed: frozenset[str] = frozenset()  # sections of effects that were set, not measured

    def __post_init__(self) -> None:
        for wrong in _impossible(self):
            raise UserError(wrong)

    @property
    def links(self) -> int:
        return self.gpus

    @property
    def gpu_memory_bytes(self) -> None:
        """None, because the memory of devices is not measured."""
        return None

    @property
    def digest(self) -> str:
        """SHA-256 of the file that `write_profile` writes."""
        return hashlib.sha256(toml_text(_data(self)).encode()).hexdigest()

    @property
    def origins(self) -> Origins:
        """Everything in the profile is measured, except effects that were set.

        A single processor has no separate CPU time, and a single link does not share host memory.
        """
        measured, contention = ("computing", "copies", "driving", "searches"), self.contention != Contention()
        parts = dict.fromkeys(measured, True) | {"contention": contention}
        if self.framework != Framework():
            parts["CPU time"] = True
        if self.links > 1 or self.host != Host():
            parts["host memory"] = self.host != Host()
        assumed = {_PARTS[section] for section in self.assumed}
        return {
            part: () if not there else ("assumed",) if part in assumed else ("measured",)
            for part, there in parts.items()
        }

    def with_effects(self, given: Mapping[str, Any]) -> "Profile":
        """The profile with other effects, given as tables like a file's; these are then assumed.

        Raises a `FieldError` for a wrong value.
        """
        values = dict(given)
        if (loading := given.get("demand_loading", self.demand_loading)) not in get_args(DemandLoading):
            raise FieldError("demand_loading", f"must be {' or '.join(get_args(DemandLoading))}, not {loading!r}")
        for section in EFFECTS.keys() & given.keys():
            try:
                values[section] = from_data(EFFECTS[section], to_data(getattr(self, section)) | given[section])
            except FieldError as error:
                raise error.inside(section) from None
        return replace(self, **values, assumed=self.assumed | (EFFECTS.keys() & given.keys()))

    def cost(self, model: ModelShape) -> "MeasuredCost":
        """The costs of `model`, which must have the measured model's sizes; its name may differ."""
        for key in _MODEL:
            here, there = getattr(self.model, key), getattr(model, key)
            if key != "name" and here != there:
                raise UserError(
                    f"profile {self.name}: it was measured for {self.model.name} with {key} {here}, "
                    f"but {model.name} has {key} {there}"
                )
        return MeasuredCost(self)

    def describe(self) -> str:
        """`a measured profile of cpu (2 logical devices)`."""
        return f"a measured profile of {self.name} ({devices(self.gpus)})"


def devices(count: int) -> str:
    """A number of devices, in words."""
    return f"{count} logical device{'s'[: count > 1]}"


class MeasuredCost:
    """The costs of the parts of an iteration, from a profile.

    Each method interpolates linearly between measured points. Outside their range it raises a `UserError` that names
    the quantity, the value and the range. Copies of 0 bytes do not occur.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.launch_s = 0.0  # not measured separately
        self.driving_s = profile.driving_s
        self.effects = effects_of(profile.host, profile.framework, profile.contention)
        self.expert_s = cache(self._expert_s)

    def dense_s(self, tokens: int, context: int, attended: int) -> float:
        """The dense part of a layer; `context` adds no cost beyond that of `attended`."""
        profile = self.profile
        if attended > profile.most_attended:
            raise self._outside("attention", f"0 … {profile.most_attended}", attended, "attended positions")
        return self._time("dense", tokens) + attended * profile.dense_s_per_attended

    def _expert_s(self, tokens: int) -> float:
        """Called as `expert_s`, which caches it."""
        return self._time("expert", tokens)

    def exchange_s(self, tokens: int) -> float:
        """0, because the devices of one processor exchange nothing."""
        return 0.0

    def head_s(self, rows: int) -> float:
        return self._time("head", rows)

    def copy_s(self, size_bytes: int) -> float:
        return self._time("copy", size_bytes)

    def copy_latency_s(self, size_bytes: int) -> float:
        """The time to hand a copy over."""
        return self.profile.copy_latency_s

    def least_copy_s(self, size_bytes: int) -> float:
        """All bytes at the best rate of any size up to this one; rates between two points never exceed both ends."""
        table, whole_s = self.profile.copy, self.copy_s(size_bytes)
        per_byte = [
            seconds / size for size, seconds in zip(table.sizes, table.seconds, strict=True) if size < size_bytes
        ]
        return min([whole_s, *(each * size_bytes for each in per_byte)])

    def search_s(self, search: Search) -> float:
        """A search, or a store update: the overhead, plus the longer of reading the store and comparing with it."""
        profile = self.profile
        rates = profile.search_bytes_per_s, profile.search_flops_per_s
        return profile.search_overhead_s + comparing_s(search, *rates)

    def _time(self, quantity: str, size: int) -> float:
        table: Table = getattr(self.profile, quantity)
        seconds = table.at(size)
        if seconds is None:
            first, last = table.sizes[0], table.sizes[-1]
            measured = f"{first} … {last}" if first < last else f"{first}"
            raise self._outside(quantity, measured, size, _SIZES[quantity])
        return seconds

    def _outside(self, quantity: str, measured: str, asked: int, unit: str) -> UserError:
        return UserError(
            f"profile {self.profile.name}: {quantity} time was measured for {measured} {unit}, "
            f"but {asked} are needed; calibrate again with more"
        )


def read_profile(path: Path) -> Profile:
    """Read a profile from a TOML file. A mistake in it raises a `UserError` that names file, key and value."""
    data = read_toml(path)
    try:
        return _profile(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def write_profile(path: Path, profile: Profile) -> None:
    """Write the profile into a file, replacing an existing one; the file appears whole or not at all."""
    write_toml(path, _data(profile))


def _data(profile: Profile) -> dict[str, Any]:
    """The file's data: a section per quantity, with the name, the model and where it was measured."""
    tables: dict[str, dict[str, Any]] = {}
    for name, sizes in _SIZES.items():
        table: Table = getattr(profile, name)
        tables[name] = {sizes: table.sizes, "seconds": table.seconds}
    tables["dense"] |= {"seconds_per_attended": profile.dense_s_per_attended, "most_attended": profile.most_attended}
    tables["copy"] |= {"latency_s": profile.copy_latency_s}
    effects = {name: to_data(getattr(profile, name), defaults=False) for name in EFFECTS}
    return {
        "name": profile.name,
        "gpus": profile.gpus,
        **({} if profile.demand_loading == "parallel" else {"demand_loading": profile.demand_loading}),
        "model": {key: getattr(profile.model, key) for key in _MODEL},
        "measured": dict(sorted(profile.measured.items())),
        **tables,
        "driving": {"seconds": profile.driving_s},
        "search": {
            "overhead_s": profile.search_overhead_s,
            "bytes_per_s": profile.search_bytes_per_s,
            "flops_per_s": profile.search_flops_per_s,
        },
        **{name: figures for name, figures in effects.items() if figures},
    }


def _profile(data: dict[str, Any]) -> Profile:
    """The inverse of `_data`."""
    file = Section(data, KEYS)
    model = file.section("model", set(_MODEL))
    expert = file.section("expert", {"tokens", "seconds"})
    dense = file.section("dense", {"tokens", "seconds", "seconds_per_attended", "most_attended"})
    head = file.section("head", {"rows", "seconds"})
    copy = file.section("copy", {"bytes", "seconds", "latency_s"})
    driving = file.section("driving", {"seconds"})
    search = file.section("search", {"overhead_s", "bytes_per_s", "flops_per_s"})
    return Profile(
        name=file.text("name"),
        gpus=file.whole("gpus"),
        model=ModelShape(
            name=model.text("name"),
            weight_bytes=model.number("weight_bytes"),
            expert_bytes_by_layer=None,
            **{key: model.whole(key) for key in _MODEL if key not in ("name", "weight_bytes")},
        ),
        expert=Table(sizes=expert.wholes("tokens"), seconds=expert.numbers("seconds")),
        dense=Table(sizes=dense.wholes("tokens"), seconds=dense.numbers("seconds")),
        dense_s_per_attended=dense.number("seconds_per_attended"),
        most_attended=dense.whole("most_attended"),
        head=Table(sizes=head.wholes("rows"), seconds=head.numbers("seconds")),
        driving_s=driving.number("seconds"),
        copy=Table(sizes=copy.wholes("bytes"), seconds=copy.numbers("seconds")),
        copy_latency_s=copy.number("latency_s"),
        search_overhead_s=search.number("overhead_s"),
        search_bytes_per_s=search.number("bytes_per_s"),
        search_flops_per_s=search.number("flops_per_s"),
        **{name: _effect(kind, name, data[name]) for name, kind in EFFECTS.items() if name in data},
        demand_loading=data.get("demand_loading", "parallel"),
        measured=file.scalars("measured"),
    )


def _effect(kind: type[Host | Framework | Contention], name: str, figures: Any) -> Any:
    """One of the optional sections."""
    if not isinstance(figures, dict):
        raise UserError(f"{name}: must be a table, not {figures!r}")
    try:
        return from_data(kind, figures)
    except FieldError as error:
        raise error.inside(name) from None


def _impossible(profile: Profile) -> Iterator[str]:
    """A line for each impossible value."""
    for key, text in (("name", profile.name), ("model.name", profile.model.name)):
        if not text or not text.isprintable():
            yield f"{key}: must be a printable name, not {text!r}"
    sizes = {f"model.{key}": getattr(profile.model, key) for key in _MODEL if key not in ("name", "shared_ffn")}
    rates = {"search.bytes_per_s": profile.search_bytes_per_s, "search.flops_per_s": profile.search_flops_per_s}
    for key, value in ({"gpus": profile.gpus} | sizes | rates).items():
        if not 0 < value < math.inf:
            yield f"{key}: must be a finite number above 0, not {value}"
    for key, value in (
        ("model.shared_ffn", profile.model.shared_ffn),
        ("dense.seconds_per_attended", profile.dense_s_per_attended),
        ("dense.most_attended", profile.most_attended),
        ("driving.seconds", profile.driving_s),
        ("copy.latency_s", profile.copy_latency_s),
        ("search.overhead_s", profile.search_overhead_s),
    ):
        if not 0 <= value < math.inf:
            yield f"{key}: must be finite and at least 0, not {value}"
    if profile.demand_loading not in get_args(DemandLoading):
        ways = " or ".join(get_args(DemandLoading))
        yield f"demand_loading: must be {ways}, not {profile.demand_loading!r}"
    if profile.copy.seconds and profile.copy_latency_s >= min(profile.copy.seconds):
        yield f"copy.latency_s: must be below copy.seconds, not {profile.copy_latency_s}"
    for name, unit in _SIZES.items():
        yield from _impossible_table(name, unit, getattr(profile, name))
    for key, value in profile.measured.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"measured.{key}: must be a finite number, not {value}"


def _impossible_table(name: str, unit: str, table: Table) -> Iterator[str]:
    if not table.sizes:
        yield f"{name}.{unit}: is empty; at least one point is needed"
    if len(table.sizes) != len(table.seconds):
        yield f"{name}.seconds: has {len(table.seconds)} values, but {name}.{unit} has {len(table.sizes)}"
    for before, size in pairwise((0, *table.sizes)):
        if size <= before:
            yield f"{name}.{unit}: must be above 0 and increase, but {size} follows {before}"
    for seconds in table.seconds:
        if not 0 < seconds < math.inf:
            yield f"{name}.seconds: must be a finite number above 0, not {seconds}"
