"""A Ray cluster of two nodes on this host, which only this host can reach.

    python -m tests.support.two_raylets FOLDER

One line of JSON says the cluster's address and the process of each node's raylet. The cluster ends with stdin.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

NODE: dict[str, Any] = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_log_monitor": False}


def main() -> None:
    os.environ["RAY_TMPDIR"] = sys.argv[1]  # Ray writes the address below it, and does not create the folder
    Path(sys.argv[1], "ray").mkdir()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**NODE, "temp_dir": sys.argv[1], "include_dashboard": False, "no_monitor": True},
    )
    nodes = [cluster.head_node, cluster.add_node(**NODE)]
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
    print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
