"""The section of a model card on the naturalness of its traces: greedy, sampled, and continuing text."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.tables import number
from traces.analysis.naturalness import Naturalness, naturalness_of, warning
from traces.capture.capture_settings import PREFILL_TOKENS, CollectSettings, Generation, Lengths, PlacedModel
from traces.capture.collection import collect
from traces.format.reader import Trace
from traces.format.target import TraceTarget
from traces.pocket_training.corpus import Corpus
from traces.pocket_training.evaluate import LONGEST
from traces.pocket_training.markdown import flow, table
from traces.prompts.prompt import Prompt
from traces.prompts.prompt_sets import PASSAGES, PromptSet, read_prompts

TITLE = "## How natural its traces are"
OUTPUT_TOKENS = 64  # after the prefill of each passage


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to record a model."""

    name: str
    prompts: PromptSet
    lengths: Lengths
    generation: Generation


def ways(corpus: Corpus | None) -> Iterator[Way]:
    """The ways to record: built-in passages generated greedily, sampled and with their own text; held-out text."""
    passages = read_prompts(PASSAGES)
    lengths = Lengths(output_tokens=OUTPUT_TOKENS, prompt_tokens=PREFILL_TOKENS)
    for name, generation in (
        ("passages, generated greedily", Generation()),
        ("passages, sampled at temperature 1", Generation(temperature=1.0)),
        ("passages, their own text", Generation(continue_text=True)),
    ):
        yield Way(name=name, prompts=passages, lengths=lengths, generation=generation)
    if corpus:
        pieces = [piece for piece in corpus.pieces if piece.split == "held-out"]
        texts = [Prompt(text=one.text, source=one.domain, line=line) for line, one in enumerate(pieces, start=1)]
        yield Way(
            name="held-out text",
            prompts=PromptSet(name="held-out text", where="held-out text", prompts=texts, dropped={}),
            lengths=Lengths(max_new_tokens=LONGEST - PREFILL_TOKENS, prompt_tokens=PREFILL_TOKENS),
            generation=Generation(continue_text=True),
        )


def measured(folder: Path, corpus: Corpus | None = None) -> dict[str, Naturalness]:
    """Record the model in `folder` in each way and measure the traces."""
    found = {}
    for way in ways(corpus):
        with tempfile.TemporaryDirectory(prefix="finemoe-") as scratch:
            settings = CollectSettings(
                model=PlacedModel(str(folder), dtype="float32", device="cpu", threads=1),
                lengths=way.lengths,
                generation=way.generation,
                target=TraceTarget(out=Path(scratch) / "a.trace"),
            )
            found[way.name] = naturalness_of(Trace.open(collect(settings, way.prompts)))
    return found


def section(found: Mapping[str, Naturalness]) -> str:
    """The section of the card."""
    about = flow(f"""
        Passages: those of `{PASSAGES}`, which are in no training corpus; the first {PREFILL_TOKENS} tokens are the
        prompt, and {OUTPUT_TOKENS} tokens follow. Held-out text: up to {LONGEST} tokens per text. All values are for
        tokens after the prompt; docs/naturalness.md explains them and their limits. The recall is "fine" above, among
        the texts of one row of this table.
    """)
    head = ("tokens", "rows", "distinct", "repeated 4-grams", "repeated rows", "recall at d = 3", "warning")
    return f"{TITLE}\n\n{about}\n\n{table(head, (_row(name, each) for name, each in found.items()))}"


def with_section(card: str, text: str) -> str:
    """The card with its section on naturalness replaced by `text`."""
    before, found, after = card.partition(f"{TITLE}\n")
    if not found:
        raise UserError(f"the card has no section {TITLE!r}")
    _, following, rest = after.partition("\n## ")
    return f"{before}{text}\n{following}{rest}"


def _row(name: str, found: Naturalness) -> tuple[str, ...]:
    decode = found.decode
    shares = (decode.distinct_tokens, decode.repeated_4grams, decode.repeated_rows)
    return (
        name,
        f"{decode.rows:,}",
        *(number(share, ".1f", 100, unit=" %") for share in shares),
        number(decode.nearest_map_recall, ".3f"),
        "no" if warning(found.to_data(), {}) is None else "yes",
    )
