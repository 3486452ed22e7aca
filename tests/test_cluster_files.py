"""The files that start workers on clusters are sound, and hold no password."""

from __future__ import annotations

import subprocess
from typing import Any

from pipeline.params import read_yaml
from tests.small import ROOT

FOLDER = ROOT / "experiments" / "cluster"


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = read_yaml(FOLDER / "kubernetes.yaml")["spec"]["template"]["spec"]
    return spec


def test_the_manifest_is_an_indexed_job() -> None:
    """It is started again on failure, and all its pods work at once."""
    job = read_yaml(FOLDER / "kubernetes.yaml")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    assert pod()["restartPolicy"] == "OnFailure"
    assert pod()["terminationGracePeriodSeconds"] >= 30


def test_the_pod_has_few_rights_and_no_password_in_it() -> None:
    """It is not root, may not become it, writes only where it must, and takes passwords from a Secret."""
    (worker,) = pod()["containers"]
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert worker["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["name"] for mount in worker["volumeMounts"]} == {volume["name"] for volume in pod()["volumes"]}
    variables = {entry["name"]: entry for entry in worker["env"]}
    for name in ("PGPASSWORD", "MLFLOW_TRACKING_PASSWORD"):
        assert set(variables[name]["valueFrom"]) == {"secretKeyRef"}
    assert all(isinstance(entry.get("value", ""), str) for entry in worker["env"])


def test_both_run_the_same_command() -> None:
    """Pods and tasks run `cave worker` with a variant, a study and one worker."""
    (worker,) = pod()["containers"]
    assert worker["command"] == ["cave", "worker", "mhvae", "--study", "my-study", "--workers", "1"]
    script = (FOLDER / "slurm.sh").read_text()
    assert 'cave worker "$variant" --study "$study" --workers 1' in script
    assert "#SBATCH --signal=TERM@60" in script


def test_the_script_can_be_read_by_bash() -> None:
    """Its syntax is right, and without a variant it says what is wanted."""
    script = str(FOLDER / "slurm.sh")
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0
    done = subprocess.run(["bash", script], capture_output=True, text=True)
    assert done.returncode != 0
    assert "give a variant" in done.stderr
