"""The trace that `make demo` records is as predictable as text that the model has not seen."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from policies.types import RecordedRequest
from tests.support.slow_cases import slow_but
from traces.__main__ import main
from traces.format.checks import check
from traces.format.reader import Trace
from traces.pocket import model_dir
from traces.pocket_training.evaluate import PROMPT, STORED
from traces.pocket_training.recall import Routing, recall

DISTANCE = 3
MAKEFILE = Path(__file__).parents[3] / "Makefile"


@pytest.fixture(scope="module", params=slow_but([32, 96], 32), ids="{} texts".format)
def texts(request: pytest.FixtureRequest) -> int:
    """How many are recorded: all 96, or the first third."""
    return request.param


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory, texts: int) -> Trace:
    """What the demo's own command records."""
    commands = MAKEFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    (command,) = re.findall(r"/finemoe traces (collect pocket .*)", commands)
    words = shlex.split(command)
    out = tmp_path_factory.mktemp("demo") / "pocket.trace"
    words[words.index("--out") + 1] = str(out)
    assert main([*words, "--limit", str(texts)] if texts < 96 else words) == 0
    return Trace.open(out)


def routing(one: RecordedRequest) -> Routing:
    rows, layers, _ = one.gate.shape
    ahead = np.zeros((rows, layers - DISTANCE, one.experts.shape[2]), np.int64)  # speculation is not asked for
    return Routing(one.token, one.gate, one.experts, PROMPT, {DISTANCE: ahead})


def card_recall(model: str) -> float:
    """On held-out text, of the nearest expert map: the first row for the distance is the trained model's."""
    card = (model_dir(model) / "README.md").read_text(encoding="utf-8")
    return float(re.findall(rf"^\| {DISTANCE} \| ([\d.]+) \|", card, re.MULTILINE)[0])


def test_the_demo_records_text(trace: Trace, texts: int) -> None:
    assert check(trace.path) == []
    assert len(trace) == texts
    assert trace.meta.generation["mode"] == "text"
    assert {(info.prompt_tokens, info.output_tokens) for info in trace.infos.values()} == {(37, 64)}


def test_its_nearest_maps_recall_what_those_of_held_out_text_do(trace: Trace) -> None:
    """As the card measures it: of each kind every other text is stored and the others searched for, then vice versa."""
    by_source: dict[str, list[Routing]] = {}
    for one in trace.iter():
        by_source.setdefault(one.source, []).append(routing(one))
    some, others = ([text for texts in by_source.values() for text in texts[side::2]] for side in (0, 1))
    for stored, searched in ((some, others), (others, some)):
        (found,) = recall(stored, searched, (DISTANCE,), STORED)
        assert found.fine == pytest.approx(card_recall(trace.meta.model), abs=0.05)
