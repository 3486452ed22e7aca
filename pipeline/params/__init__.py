"""Parameters: `params.yaml` read into frozen, strict models.

A parameter has one name everywhere, its dotted path (`model.depth`): in YAML, in `--set`, in a variant's
overrides, in the search space and in MLflow. Defaults stand in the YAML file alone, so every key must be
there. Every mistake is an `InputError` of one line with the path, the value and what is allowed.
"""

from pipeline.params.notes import notes
from pipeline.params.own import KINDS, add_name, extension_files, import_extensions
from pipeline.params.parameters import Params
from pipeline.params.ranges import MOST_VALUES, Choices, Range
from pipeline.params.rules import check_model, check_objective
from pipeline.params.sections import (
    DENSITY,
    DEQUANTIZED,
    INFORMATIVE,
    MEASURES,
    MOST_UNITS,
    PROBABILITY,
    CaveParams,
    DataParams,
    DecomposeParams,
    EvaluateParams,
    ModelParams,
    OutlierParams,
    ReportParams,
    SweepParams,
    TrainParams,
    halvings,
    measure_of,
)
from pipeline.params.text import digest, parse_assignments, read_yaml
from pipeline.params.writing import dump_yaml

__all__ = [
    "DENSITY",
    "DEQUANTIZED",
    "INFORMATIVE",
    "KINDS",
    "MEASURES",
    "MOST_UNITS",
    "MOST_VALUES",
    "PROBABILITY",
    "CaveParams",
    "Choices",
    "DataParams",
    "DecomposeParams",
    "EvaluateParams",
    "ModelParams",
    "OutlierParams",
    "Params",
    "Range",
    "ReportParams",
    "SweepParams",
    "TrainParams",
    "add_name",
    "check_model",
    "check_objective",
    "digest",
    "dump_yaml",
    "extension_files",
    "halvings",
    "import_extensions",
    "measure_of",
    "notes",
    "parse_assignments",
    "read_yaml",
]
