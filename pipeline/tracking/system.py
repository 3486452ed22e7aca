"""Metrics of the machine beside those of a run, where MLflow's own option asks for them; the default is none."""

from __future__ import annotations

from typing import Any

__all__ = ["monitor"]


def monitor(run_id: str, uri: str) -> Any:
    """Start to log processor, memory, disk, network and GPUs every 10 seconds as `system/*`; None without the option.

    The option is MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=true. What is logged goes to MLflow directly, since nothing is
    computed from it: samples that a server which is away would have got are lost.
    """
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        return None
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    started = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
    started.start()
    return started
