"""Real routing and arrivals that are no part of the project; tests use them where they are."""

import os
from pathlib import Path

DATA = Path(os.environ.get("FINEMOE_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
GPT_OSS = DATA / "gpt-oss-20b" / "routing.npz"
BIG_MOE_ON_EDGE = DATA / "bigmoeonedge"
