"""The machine that a run stands for: a preset from data sheets, or the profile of one that was measured."""

from dataclasses import asdict, dataclass
from pathlib import Path

from common.hashing import sha256_of_json
from policies.types import ModelShape
from sim.hardware.costs import Cost, CostModel
from sim.hardware.presets import Hardware, preset
from sim.hardware.profile import Profile, read_profile

Machine = Hardware | Profile


@dataclass(frozen=True, slots=True)
class Devices:
    """Where a real run took place: its times are measured, so there is nothing to compute them from."""

    name: str
    gpus: int


def machine_named(text: str) -> Machine:
    """A preset by its name, or the profile in a file whose name ends in `.toml`."""
    return read_profile(Path(text)) if text.endswith(".toml") else preset(text)


def cost_of(model: ModelShape, machine: Machine) -> Cost:
    """What the parts of an iteration of `model` cost there; a profile refuses a model that it was not measured with."""
    return machine.cost(model) if isinstance(machine, Profile) else CostModel(model, machine)


def description(machine: Machine | Devices) -> str:
    """The machine as a heading calls it."""
    if isinstance(machine, Hardware):
        return f"{machine.name} ({machine.gpus} × {machine.gpu.name})"
    of = "a measured profile of " if isinstance(machine, Profile) else ""
    return f"{of}{machine.name} ({machine.gpus} logical device{'s'[: machine.gpus > 1]})"


def memory_bytes(machine: Machine | Devices) -> float | None:
    """Of all GPUs together, where a data sheet says it."""
    return machine.gpus * machine.gpu.memory_bytes if isinstance(machine, Hardware) else None


def digest(machine: Machine | Devices) -> str | None:
    """SHA-256 of every figure that times are computed from; None where they are measured."""
    if isinstance(machine, Devices):
        return None
    if isinstance(machine, Profile):
        return machine.sha256
    return sha256_of_json(asdict(machine))
