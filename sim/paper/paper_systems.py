"""The systems of the paper's evaluation, and the policy that represents each."""

from dataclasses import dataclass

from sim.paper.study_traces import PaperTrace
from sim.system_colours import colour_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperSystem:
    """A system under the paper's name, in one of its forms (docs/systems.md)."""

    name: str
    form: str = ""
    """The form, if the system has several: `paper` or `code`, `learned` or `lookahead`."""
    text: str
    """The policy. `{best_distance}` stands for the paper's best prefetch distance of the model (fig. 15)."""
    is_main: bool = True
    """Whether this form represents the system in claims. Other forms are shown beside it."""

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
