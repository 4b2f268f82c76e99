"""`finemoe traces collect`: run a model on prompts or texts and record its routing."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from common.applications import MODEL, OUTPUT, PROMPTS, under
from common.errors import FieldError, UserError
from traces.capture.capture_settings import CollectSettings, Generation, Lengths, PlacedModel, Recording
from traces.format.target import TraceTarget, check_target
from traces.prompts.prompt_sets import PASSAGES, PromptChoice, read_chosen

GENERATION = Group(
    "Generation", "One of --max-new-tokens, --output-tokens and --continue-text is required.", sort_key=30
)

_MODEL_LIBRARIES = {"accelerate", "jinja2", "torch", "transformers", "safetensors", "tokenizers", "huggingface_hub"}


def collect(
    model: Annotated[PlacedModel, under(MODEL)],
    *,
    prompts: Annotated[str | None, Parameter(group=PROMPTS)] = None,
    choice: Annotated[PromptChoice, under(PROMPTS)] = PromptChoice(),
    lengths: Annotated[Lengths, under(GENERATION)] = Lengths(),
    generation: Annotated[Generation, under(GENERATION)] = Generation(),
    greedy: Annotated[bool, Parameter(group=GENERATION)] = False,
    target: Annotated[TraceTarget, under(OUTPUT)],
    recording: Annotated[Recording, under(OUTPUT)] = Recording(),
) -> None:
    """Run a model on prompts or texts and record its routing.

    After an interruption, run the same command again: it resumes, and the trace is the same byte for byte.

    Parameters
    ----------
    prompts
        A prompt set, such as built-in or lmsys-chat-1m (`finemoe traces prompts` lists them), a file or a folder.
        Required without --continue-text, whose default is built-in-passages.
    greedy
        Always choose the most likely token (the default).
    """
    if greedy and generation.mode != "greedy":
        other = "continue_text" if generation.continue_text else "temperature"
        raise FieldError("greedy", f"cannot be combined with `{other}`")
    if prompts is None:
        if not generation.continue_text:
            raise UserError("`prompts` or `continue_text` is required")
        prompts = PASSAGES
    settings = CollectSettings(model=model, lengths=lengths, generation=generation, recording=recording, target=target)
    check_target(target)
    with target.reserved():
        found = read_chosen(prompts, choice, seed=generation.seed)
        try:
            from traces.capture.collection import collect as record
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _MODEL_LIBRARIES:
                raise
            raise UserError(f"collect needs {error.name}: pip install 'finemoe-lab[models]'") from None
        path = record(settings, found)
        for line in _caution(path):
            print(line, file=sys.stderr)
        print(path)


def _caution(path: Path) -> list[str]:
    """The lines with which other commands warn that a trace is not like natural text."""
    from traces.analysis.naturalness import naturalness_of, warning
    from traces.format.provenance import caution
    from traces.format.reader import Trace

    trace = Trace.open(path)
    return caution(warning(naturalness_of(trace).to_data(), trace.meta.generation))
