"""The shape of the code: imports run one way, each big library has one door, DVC knows what a stage depends on."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.params import read_yaml
from pipeline.runs.provenance import PACKAGE, code_digest, module_files
from tests.small import ROOT

# From the bottom to the top: a module imports only modules of its own room and of rooms before it in the list.
BASE = ["faults", "redaction", "errors", "text", "progress", "files", "log", "location", "randomness"]
SCIENCE = ["params", "data", "distributions", "models", "objectives", "training", "evaluation", "figures"]
RESULTS = ["study", "report"]  # what is written where, and the comparison made of it
MACHINERY = ["processes", "stores", "artifacts", "runs", "tracking", "links", "sweep", "stages"]
COMMANDS = ["retrain", "reproduce", "removal", "doctor", "cli", "__main__"]
LINE = [*BASE, *SCIENCE, *RESULTS, *MACHINERY, *COMMANDS]
DOORS = {"mlflow": "tracking", "optuna": "sweep", "pandas": "report", "matplotlib": "figures", "ray": "processes"}
DOORS |= {"pyarrow": "files", "arviz_stats": "evaluation"}
STAGES = ["fetch", "prepare", "sweep", "train", "evaluate", "report"]
FILES = sorted(PACKAGE.rglob("*.py"))


def noun(path: Path) -> str:
    """Return the module or subpackage of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_its_place_in_the_line() -> None:
    """Every module of the package stands in the line once."""
    assert {noun(path) for path in FILES} - {"__init__"} == set(LINE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    """A module imports only modules that stand before it in the line."""
    if noun(path) == "__init__":
        return
    nouns = {name.split(".")[1] for name in imported(path) if name.startswith("pipeline.")}
    below = {other for other in nouns & set(LINE) if LINE.index(other) > LINE.index(noun(path))}
    assert not below


@pytest.mark.parametrize(("library", "door"), DOORS.items())
def test_a_big_library_has_one_door(library: str, door: str) -> None:
    """MLflow, Optuna, pandas, matplotlib and Ray are each imported by one module alone."""
    users = {noun(path) for path in FILES if any(name.split(".")[0] == library for name in imported(path))}
    assert users <= {door}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_the_code_it_runs(stage: str) -> None:
    """The deps of a stage in dvc.yaml are exactly the modules and packages that its script imports, directly or not."""
    entry = read_yaml(ROOT / "dvc.yaml")["stages"][stage]
    deps = {dep for dep in entry.get("do", entry)["deps"] if dep.startswith("${root}/")}
    needed = set()
    for path in module_files(f"pipeline.stages.{stage}"):
        parts = path.relative_to(PACKAGE).parts
        if parts != ("stages", "__init__.py"):
            needed.add("${root}/pipeline/" + ("/".join(parts) if parts[0] == "stages" else parts[0]))
    assert deps == needed


def test_every_stage_is_in_the_pipeline() -> None:
    """The stages of dvc.yaml are the modules of pipeline/stages, in the order of the work."""
    assert list(read_yaml(ROOT / "dvc.yaml")["stages"]) == STAGES
    assert {path.stem for path in (PACKAGE / "stages").glob("*.py")} - {"__init__"} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_the_place_of_its_shell(stage: str) -> None:
    """A stage is a child of DVC itself, whose end it follows: `dash` would otherwise stand between the two."""
    entry = read_yaml(ROOT / "dvc.yaml")["stages"][stage]
    assert entry.get("do", entry)["cmd"].startswith(f"exec python -m pipeline.stages.{stage}")


def test_module_files_follow_lazy_and_nested_imports() -> None:
    """The transitive imports of the training hold the model and the data reader, and no tracking."""
    nouns = {noun(path) for path in module_files("pipeline.training")}
    assert {"training", "models", "objectives", "distributions", "data", "params"} <= nouns
    assert not nouns & {"tracking", "sweep", "report", "stages"}


def test_the_code_digest_is_of_the_code_alone() -> None:
    """Two calls give one digest, and another module has another."""
    assert code_digest("pipeline.training") == code_digest("pipeline.training") != code_digest("pipeline.params")


def test_the_command_line_starts_light() -> None:
    """Importing the command line and reading params.yaml loads none of the heavy libraries."""
    code = (
        "import sys, pipeline.cli, pipeline.data, pipeline.report; from pathlib import Path;"
        "from pipeline.params import Params; Params.read(Path('params.yaml'));"
        "heavy = {'torch', 'mlflow', 'optuna', 'pandas', 'matplotlib', 'sklearn', 'scipy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_test_says_a_sentence() -> None:
    """Every test function has a docstring that ends as a sentence does."""
    silent = []
    for path in (ROOT / "tests").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                text = (ast.get_docstring(node) or "").split("\n\n")[0]
                if not text.endswith("."):
                    silent.append(f"{path.name}: {node.name}")
    assert silent == []
