"""Train a pocket model for a fixed number of steps; deterministic per seed on one machine with one thread."""

import dataclasses
import json
import math
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from common.errors import UserError
from common.files import new_folder
from traces.pocket import Model, Tokenizer
from traces.pocket.recipe import Recipe, Training
from traces.pocket_training.build import build
from traces.pocket_training.corpus import Corpus
from traces.pocket_training.tokenizer import END_ID, train_tokenizer


def make(recipe: Recipe, corpus: Corpus, out: Path, *, threads: int = 1, progress: bool = True) -> None:
    """Train tokenizer and model and write the checkpoint, in bfloat16, to the folder `out`.

    `out` appears only when everything is done. `training.json` has the facts about the run for the model card.
    """
    import transformers

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder; choose a new one for the model")
    torch.set_num_threads(threads)
    texts = corpus.texts("train")
    tokenizer = train_tokenizer(texts, recipe.architecture.vocabulary, recipe.architecture.max_positions)
    tokens = encode(tokenizer, texts)
    model = build(recipe.architecture, recipe.seed)
    started, cpu_started = time.perf_counter(), time.process_time()
    losses = train(model, tokens, recipe.training, recipe.architecture.top_k, recipe.seed, progress=progress)
    facts = {
        "recipe": dataclasses.asdict(recipe),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens_seen": recipe.training.tokens,
        "tokens_in_corpus": len(tokens),
        "last_100_steps_loss": float(np.mean(losses[-100:])),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu_started, 1),
        "threads": threads,
        "machine": platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "corpus": corpus.account,
    }
    if out.exists():
        out.rmdir()
    with new_folder(out, "the model") as partial:
        save(model, tokenizer, partial)
        (partial / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def save(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """Write model (rounded to bfloat16 in place) and tokenizer in the format of Transformers; generation is greedy."""
    model.generation_config.do_sample = False
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.uint16]:
    """Token ids of all texts in one row, with `<|endoftext|>` after each."""
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return np.concatenate([np.array([*row, END_ID], dtype=np.uint16) for row in rows])


def train(
    model: Model,
    tokens: NDArray[np.uint16],
    training: Training,
    top_k: int,
    seed: int,
    *,
    progress: bool = False,
) -> list[float]:
    """Train the model in place and return the language-modelling loss of every step.

    Seeds torch's global generator, from which the routers of one family sample in training, and restores it afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(model, tokens, training, top_k, seed, progress=progress)


def _train(
    model: Model, tokens: NDArray[np.uint16], training: Training, top_k: int, seed: int, *, progress: bool
) -> list[float]:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=training.peak_rate,
        betas=training.betas,
        fused=True,
    )
    losses: list[float] = []
    model.train()
    steps = batches(tokens, training, seed)
    bar = tqdm(steps, total=training.steps, file=sys.stderr, disable=not progress, unit="step")
    for step, batch in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, training)
        output = model(input_ids=batch, output_router_logits=True, use_cache=False)
        loss = functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        total = loss + training.balance_weight * balance_loss(output.router_logits, top_k)
        torch.autograd.backward(total)
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 20 == 0:
            bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}")
    model.eval()
    return losses


def balance_loss(router_logits: Sequence[Tensor], top_k: int) -> Tensor:
    """The load-balancing loss of the Switch Transformer, computed per layer and averaged over layers.

    `router_logits` has `[T, J]` per layer. A layer's loss is `J · Σ_j f_j · p_j`, where `f_j` is the share of expert j
    in the T·K assignments and `p_j` its mean probability: 1 if both are uniform, J if one expert gets everything. The
    version in Transformers pools the layers first, so one layer's imbalance can hide another's.
    """
    losses = []
    for logits in router_logits:
        probs = logits.float().softmax(-1)  # [T, J]
        experts = probs.shape[-1]
        chosen = probs.topk(top_k, dim=-1).indices  # [T, K]
        share = functional.one_hot(chosen, experts).sum(1).float().mean(0) / top_k  # [J]
        losses.append(experts * (share * probs.mean(0)).sum())
    return torch.stack(losses).mean()


def learning_rate(step: int, training: Training) -> float:
    """Linear warm-up, then half a cosine from the peak to `final_rate` of it."""
    warmup = min(1.0, (step + 1) / training.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * step / training.steps))
    return training.peak_rate * warmup * (training.final_rate + (1 - training.final_rate) * cosine)


def batches(tokens: NDArray[np.uint16], training: Training, seed: int) -> Iterator[Tensor]:
    """Batches of token ids `[batch, window]`: windows in random order, each used once before any is repeated."""
    windows = len(tokens) // training.window
    if windows < training.batch:
        raise UserError(f"the corpus has only {len(tokens)} tokens; a batch has {training.batch * training.window}")
    rows = tokens[: windows * training.window].reshape(windows, training.window)
    random = np.random.default_rng(seed)
    order = random.permutation(windows)
    for _ in range(training.steps):
        if len(order) < training.batch:
            order = np.concatenate([order, random.permutation(windows)])
        yield torch.from_numpy(rows[order[: training.batch]].astype(np.int64))
        order = order[training.batch :]
