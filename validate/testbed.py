"""A testbed: a model whose experts are offloaded, and the devices that they are copied to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from common.errors import UserError
from common.files import scratch_folder
from policies.types import ModelShape
from sim.hardware.costs import Cost
from sim.hardware.effects import DemandLoading
from sim.hardware.origins import Origins
from sim.hardware.profile import devices
from traces.capture.model_loading import LoadedModel, load
from validate.offload.arena import devices_of
from validate.offload.offloaded_model import OffloadedModel, offload
from validate.testbed_settings import TestbedSettings


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of a real run: a `Machine` whose times are measured and cannot be computed."""

    name: str
    gpus: int
    gpu_memory_bytes: float | None = None
    digest: str | None = None
    demand_loading: DemandLoading = "parallel"

    @property
    def links(self) -> int:
        """The number of links, one for each device."""
        return self.gpus

    @property
    def origins(self) -> Origins:
        """All times are measured, as a whole."""
        return {"everything": ("measured",)}

    def cost(self, model: ModelShape) -> Cost:
        """Always a `UserError`."""
        raise UserError(f"{self.describe()}: times are measured here, so {model.name} cannot be simulated on it")

    def describe(self) -> str:
        """`cpu with 1 thread (2 logical devices)`."""
        serial = ", serial demand loading" if self.demand_loading == "serial" else ""
        return f"{self.name} ({devices(self.gpus)}{serial})"


@dataclass(frozen=True, slots=True)
class Testbed:
    """An offloaded model and the devices that its experts are copied to, each over a link of its own."""

    __test__ = False  # despite its name, pytest must not collect it

    loaded: LoadedModel
    offloaded: OffloadedModel
    devices: Sequence[torch.device]


def load_model(settings: TestbedSettings) -> LoadedModel:
    """Load the model on its first device; also sets torch's number of threads as in the settings."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return load(settings.model, revision=settings.revision, dtype=settings.dtype, device=settings.device)


def devices_as_machine(settings: TestbedSettings, demand_loading: DemandLoading = "parallel") -> Devices:
    """The devices with their name in results; call it after the model is loaded."""
    threads = torch.get_num_threads()
    name = f"cpu with {threads} thread{'s'[: threads > 1]}" if settings.device == "cpu" else settings.device
    return Devices(name, settings.devices, demand_loading=demand_loading)


@contextmanager
def open_testbed(settings: TestbedSettings, loaded: LoadedModel, *, lookahead: Sequence[int] = ()) -> Iterator[Testbed]:
    """A testbed of a loaded model. Its experts lie in a record file that has no name, so none is left behind."""
    with scratch_folder() as scratch:
        model = offload(loaded, scratch / "experts.records", lookahead=lookahead)
    yield Testbed(loaded, model, devices_of(settings.device, settings.devices))
