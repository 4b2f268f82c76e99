"""What recording adds to the time of a generation.

    python benchmarks/capture_cost.py [MODEL] [--batch-size 8] [--prompt-tokens 37] [--output-tokens 48] [--rounds 15]

MODEL is a name, folder or repository that `traces collect` takes. The same batch is generated without recording, with
it, and with one layer's lookahead besides, in turns, after a warm-up; reading the passes into requests, as a collection
does it, counts too, writing them to the disk does not. Processor time of one thread. Other work on the machine slows
all of them from time to time, so the overhead is the median over the rounds of each round's own ratio.
"""

import argparse
import json
import time
from statistics import median

import torch

from common.tables import number, record_table
from traces.capture.capture_settings import Lengths
from traces.capture.gate_recorder import GateRecorder, requests_of
from traces.capture.generation import generate, generation_config
from traces.capture.model_loading import load
from traces.capture.model_structure import shape_of
from traces.capture.prompt_tokens import tokenized
from traces.pocket import DEMO_PROMPTS
from traces.prompts.prompt_sets import PromptChoice, read_prompts

MODEL = "qwen1.5-moe-a2.7b-twin"
TARGET = 0.10  # of the time without recording
KINDS = {"not recorded": None, "recorded": (), "recorded, lookahead 1": (1,)}


class Generations:
    """The same batch of prompts of the same lengths, generated again and again."""

    def __init__(self, model: str, *, batch_size: int, prompt_tokens: int, output_tokens: int) -> None:
        self.loaded = load(model)
        self.output_tokens = output_tokens
        self.batch = tokenized(
            read_prompts(str(DEMO_PROMPTS), PromptChoice(limit=batch_size)).prompts,
            self.loaded,
            Lengths(output_tokens=output_tokens, prompt_tokens=prompt_tokens),
            where=DEMO_PROMPTS,
        )
        self.config = generation_config(self.loaded, max_new_tokens=output_tokens, exactly=True)

    def seconds(self, lookahead: tuple[int, ...] | None) -> float:
        """Processor time of one generation; None is without recording."""
        began_s = time.process_time()
        if lookahead is None:
            generate(self.loaded, self.batch, self.config)
        else:
            with GateRecorder(self.loaded.model, lookahead=lookahead) as recorder:
                generate(self.loaded, self.batch, self.config)
            rows = range(len(self.batch))
            requests_of(recorder.take(), [self.output_tokens] * len(rows), rows, [""] * len(rows))
        return time.process_time() - began_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", default=MODEL, metavar="MODEL", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=37)
    parser.add_argument("--output-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    generations = Generations(
        args.model,
        batch_size=args.batch_size,
        prompt_tokens=args.prompt_tokens,
        output_tokens=args.output_tokens,
    )
    shape = shape_of(generations.loaded.model, name=generations.loaded.name)
    for lookahead in KINDS.values():
        generations.seconds(lookahead)
    rounds = [{kind: generations.seconds(lookahead) for kind, lookahead in KINDS.items()} for _ in range(args.rounds)]
    bare = next(iter(KINDS))
    rows = [
        {
            "generation": kind,
            "median ms": median(one[kind] for one in rounds) * 1e3,
            "best ms": min(one[kind] for one in rounds) * 1e3,
            "overhead %": 100 * (median(one[kind] / one[bare] for one in rounds) - 1),
        }
        for kind in KINDS
    ]
    if args.json:
        print(json.dumps({"model": shape.name, "rows": rows}))
        return
    size = f"{shape.layers} layers × {shape.experts} experts, top-{shape.top_k}"
    print(f"{shape.name} ({size}): {args.batch_size} × {args.prompt_tokens} prompt and {args.output_tokens} new tokens")
    shown = [
        {name: value if isinstance(value, str) else number(value, ".1f") for name, value in row.items()} for row in rows
    ]
    print(record_table(shown))
    print(f"target: recording costs at most {TARGET:.0%}")


if __name__ == "__main__":
    main()
