"""The systems of the paper's evaluation, and the policy that stands for each here."""

from dataclasses import dataclass

from sim.paper.study_traces import PaperTrace
from sim.system_colours import colour_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperSystem:
    """A system as the paper names it, in one of the forms that it has here (docs/systems.md)."""

    name: str
    form: str = ""
    """Which form, where there are several: `paper` and `code`, or `learned` and `lookahead`."""
    text: str
    """The policy, perhaps with `{best_distance}`: the paper's best prefetch distance for the model (fig. 15)."""
    is_main: bool = True
    """The form that stands for the system in claims; the others are shown beside it."""

    def policy(self, trace: PaperTrace) -> str:
        """The text of the policy for a model."""
        return self.text.format(best_distance=trace.best_distance)

    @property
    def title(self) -> str:
        """Name and form."""
        return f"{self.name} ({self.form})" if self.form else self.name

    @property
    def colour(self) -> str:
        """The system's colour, in every picture."""
        return colour_of(self.text)


FINEMOE = PaperSystem(name="FineMoE", text="finemoe,prefetch_distance={best_distance}")
MOE_INFINITY = PaperSystem(name="MoE-Infinity", form="paper", text="moe-infinity")
PROMOE = PaperSystem(name="ProMoE", form="learned", text="promoe,lookahead=false")
MIXTRAL_OFFLOADING = PaperSystem(name="Mixtral-Offloading", form="paper", text="mixtral-offloading")
DEEPSPEED = PaperSystem(name="DeepSpeed", text="deepspeed")

SYSTEMS = (FINEMOE, MOE_INFINITY, PROMOE, MIXTRAL_OFFLOADING, DEEPSPEED)
BASELINES = SYSTEMS[1:]
OTHER_FORMS = (
    PaperSystem(name="MoE-Infinity", form="code", text="moe-infinity-code", is_main=False),
    PaperSystem(name="ProMoE", form="lookahead", text="promoe", is_main=False),
    PaperSystem(name="Mixtral-Offloading", form="code", text="mixtral-offloading-released", is_main=False),
)
NO_OFFLOAD = PaperSystem(name="No-offload", text="no-offload")
