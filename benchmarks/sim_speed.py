"""How many decode iterations per second the simulator replays on one core.

    python benchmarks/sim_speed.py [--json] [--iterations 3000] [--repeat 3]

The routing is drawn at random (clustered, with some overlap from token to token): it sets the amount of work, and says
nothing about models. A run is timed from its first iteration to its last; reading and starting the policy are not.
"""

import argparse
import json
import os
import sys
import time

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy is imported

import numpy as np
from tabulate import tabulate

from policies.base import make_policy
from policies.types import ModelShape, RecordedRequest
from sim.simulation import Setting, simulate
from traces.models import PUBLISHED

CAPACITY = 1000
HIDDEN = 64


def requests_of(model: ModelShape, iterations: int, rng: np.random.Generator) -> list[RecordedRequest]:
    """Requests of 200 decode iterations each."""
    clusters = 40
    centres = rng.dirichlet(np.full(model.experts, 0.3), size=(clusters, model.layers))
    vocabulary = rng.normal(size=(2000, HIDDEN)).astype(np.float16)
    answer = []
    for number in range(-(-iterations // 200)):
        stays = rng.random(200) < 0.35
        cluster = rng.integers(clusters, size=200)
        for place in np.flatnonzero(stays[1:]) + 1:
            cluster[place] = cluster[place - 1]
        gate = 0.8 * centres[cluster] + 0.2 * rng.dirichlet(np.full(model.experts, 0.5), size=(200, model.layers))
        token = rng.zipf(1.5, 200) % 50 + 50 * cluster
        answer.append(
            RecordedRequest(
                request=number,
                source="synthetic",
                iteration=np.arange(1, 201, dtype=np.int32),
                position=np.arange(40, 240, dtype=np.int32),
                token=token.astype(np.int32),
                gate=gate.astype(np.float16),
                experts=np.argsort(-gate, axis=2)[:, :, : model.top_k].astype(np.int16),
                embedding=vocabulary[token],
            )
        )
    return answer
