"""A Ray cluster on this machine, in a process of its own: a line of input adds a node, and all end with the last."""

from __future__ import annotations

import sys


def main() -> None:
    """Print the cluster's address, then, for each line, a new node's raylet."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "num_gpus": 2, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        node = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
        print(node.all_processes["raylet"][0].process.pid, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
