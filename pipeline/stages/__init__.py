"""The steps of the pipeline: each loads, calls one function and writes; `dvc.yaml` names them in order."""
