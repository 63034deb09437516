"""Ray's own local cluster of several nodes, as its tests use it: each node is a set of processes on this machine."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
_NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_log_monitor": False, "include_dashboard": False}


@contextlib.contextmanager
def local_cluster() -> Iterator[Any]:
    """Give a cluster of one node of one core; nothing of it is left afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
        patch.setenv("RAY_worker_niceness", "0")  # 15 would wait for whatever else the machine does
        patch.setenv("RAY_health_check_initial_delay_ms", "0")  # a node that was killed is noticed sooner
        patch.setenv("RAY_health_check_period_ms", "300")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]))
        import ray
        from ray.cluster_utils import Cluster

        before = set(psutil.pids())
        cluster = Cluster(initialize_head=True, head_node_args=dict(_NODE))
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
            left = [process for process in psutil.process_iter() if process.pid not in before]
            _, workers = psutil.wait_procs([process for process in left if _is_rays(process, "ray::")], timeout=60)
            for daemon in (process for process in left if _is_rays(process, "/ray/")):
                with contextlib.suppress(psutil.Error):  # Ray's agents of a node that was killed may outlive it
                    daemon.kill()
            assert not workers, workers


def add_node(cluster: Any) -> Any:
    """Add a node of one core."""
    return cluster.add_node(**_NODE)


def _is_rays(process: psutil.Process, word: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(word in argument for argument in process.cmdline())
    return False
