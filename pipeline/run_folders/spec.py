"""What a run trains: the parameters as they take effect and the seeds, as the file `spec.json` that leads to it again.

`python -m pipeline.retrain` trains what such a file describes; `cave reproduce` starts it in the code of the run's
commit. So the file is a contract between commits, whose version is `FORMAT`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import InputError
from pipeline.files import read_json
from pipeline.params import Params

__all__ = ["RunSpec"]

FORMAT = 2
FIELDS = ("stage", "variant", "seed", "rng_seed")


@dataclass(frozen=True)
class RunSpec:
    """What a run trains; a `sweep`, whose trials are trained, has no random numbers of its own."""

    stage: str  # `train`, `trial` or `sweep`
    variant: str
    seed: int  # as it is shown
    params: Params  # with the variant's, and a trial's, values in place
    rng_seed: int | None = None  # that random numbers are drawn by

    @property
    def flat(self) -> dict[str, Any]:
        """The parameters of data, model and training by their dotted paths."""
        return {path: v for path, v in self.params.flat().items() if path.split(".")[0] in ("data", "model", "train")}

    def describe(self, data_digest: str, commit: str) -> dict[str, Any]:
        """Return the content of `spec.json`, which `read` gives back."""
        fields = {name: getattr(self, name) for name in FIELDS}
        params = self.params.model_dump(mode="json")
        return {"format": FORMAT, **fields, "data_digest": data_digest, "commit": commit, "params": params}

    @classmethod
    def read(cls, path: Path) -> tuple[RunSpec, str]:
        """Read what `describe` returned: the specification, and the digest of its data.

        Raises:
            InputError: the file is not one of this format.
        """
        content = read_json(path)
        version = content.get("format") if isinstance(content, dict) else content
        if version != FORMAT:
            raise InputError(f"{path.name}: format {version!r} given; allowed: {FORMAT}")
        try:
            params = Params.model_validate_json(json.dumps(content["params"]))
            return cls(params=params, **{name: content[name] for name in FIELDS}), str(content["data_digest"])
        except (KeyError, TypeError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path.name}: not the specification of a run: {reason}") from None
