"""The model registry: `<study>.<variant>`, a version for each final model, and which of them is the champion.

All of it is derived from the study's files, and from the runs that its present results name, as are the runs' tags:
what is missing is added, what differs is changed, and doing so twice changes nothing. A version's source is its run,
in whose folder `model` the evaluation has put what makes it a model of MLflow.

`evaluate/<variant>/champion.json` names the seed with the best validation bound, which gets the alias `champion`. The
description is the model card `report/models/<variant>.md`, once the report has one of this evaluation.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.files import read_json, sha256
from pipeline.redaction import one_line
from pipeline.study import Study
from pipeline.tracking.connection import quoted
from pipeline.tracking.failures import reason_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.exceptions import MlflowException

__all__ = ["FOLDER", "MODEL", "registered_name", "rename_models", "update_registry"]

FOLDER = "model"  # of a run's artifacts
MODEL = "model"  # the tag of a run whose folder is a model of MLflow
ABSENT = ("FEATURE_DISABLED", "NOT_IMPLEMENTED")  # of what a server does not have
LENGTH = 5000  # characters of a description
ALIAS = "champion"


def registered_name(study: Study, variant: str) -> str:
    """Return the name by which a variant's models are registered."""
    return f"{study.name}.{variant}"


def update_registry(study: Study, client: MlflowClient, runs: Mapping[tuple[str, str], Run]) -> None:
    """Register the evaluated models among the present `runs`, by variant and seed, and name each variant's champion.

    A registry that is not there, or that refuses, costs a line on stderr: the models remain in their runs.
    """
    from mlflow.exceptions import MlflowException

    for variant in study.params.variants:
        try:
            champion = read_json(study.evaluate(variant) / "champion.json", "seed")
            card = _card(study, variant)
        except (InputError, OSError, UnicodeDecodeError):  # the variant is not evaluated yet
            continue
        models = {int(seed): run for (name, seed), run in runs.items() if name == variant and MODEL in run.data.tags}
        if champion["seed"] not in models:
            continue
        try:
            _Registered(client, registered_name(study, variant)).update(models, champion["seed"], card[:LENGTH])
        except MlflowException as error:
            if not _is_refused(error):
                raise
            line = f"{study.name}: MLflow registers no models ({reason_of(error)}); they remain in their runs"
            print(one_line(line), file=sys.stderr, flush=True)
            return


def rename_models(study: Study, client: MlflowClient, end: str) -> None:
    """Add `end` to the names of a study's registered models, so that a later study of its name starts without them."""
    from mlflow.exceptions import MlflowException

    try:
        for model in client.search_registered_models(f"name LIKE {quoted(f'{study.name}.%')}", max_results=1000):
            if model.name.startswith(f"{study.name}.") and "(" not in model.name:  # which no name of a variant has
                client.rename_registered_model(model.name, f"{model.name}{end}")
    except MlflowException as error:
        if not _is_refused(error):
            raise


def _is_refused(error: MlflowException) -> bool:
    """Return whether a registry is not there, or refuses what was asked of it, now and later."""
    return error.get_http_status_code() < 500 or error.error_code in ABSENT


def _card(study: Study, variant: str) -> str:
    """Return the variant's model card, or where the report has none of this evaluation, what makes it."""
    evaluation = sha256([study.decomposition(variant).read_bytes()])[:12]
    path = study.report / "models" / f"{variant}.md"
    card = path.read_text(encoding="utf-8") if path.exists() else ""
    return card if evaluation in card else f"The final models of {variant}. {study.how('report')}"


class _Registered:
    """A registered model."""

    def __init__(self, client: MlflowClient, name: str) -> None:
        self.client, self.name = client, name

    def update(self, models: Mapping[int, Run], champion: int, card: str) -> None:
        """Bring versions, descriptions and the alias up to date."""
        from mlflow.exceptions import MlflowException

        try:
            model = self.client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            model = self.client.create_registered_model(self.name)
        versions = self._versions()
        for seed, run in models.items():
            run_id = str(run.info.run_id)
            if run_id not in versions:
                versions[run_id] = self._register(run_id)
            about = f"Seed {seed}. See the description of the model `{self.name}`."
            if versions[run_id].description != about:
                self.client.update_model_version(self.name, versions[run_id].version, about)
        best = str(versions[str(models[champion].info.run_id)].version)
        if str(model.aliases.get(ALIAS)) != best:
            self.client.set_registered_model_alias(self.name, ALIAS, best)
        if model.description != card:
            self.client.update_registered_model(self.name, card)

    def _versions(self) -> dict[str, ModelVersion]:
        """Return the first version of each run; later ones are removed, which two processes at once have made."""
        every: Sequence[ModelVersion] = self.client.search_model_versions(f"name = {quoted(self.name)}")
        versions: dict[str, ModelVersion] = {}
        for version in sorted(every, key=lambda version: int(version.version)):
            if version.run_id in versions:
                self.client.delete_model_version(self.name, version.version)
            else:
                versions[str(version.run_id)] = version
        return versions

    def _register(self, run_id: str) -> ModelVersion:
        self.client.create_model_version(self.name, f"runs:/{run_id}/{FOLDER}", run_id, await_creation_for=0)
        return self._versions()[run_id]
