"""The shape of the code: imports run one way, each big library has one door, DVC knows what a stage depends on."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from pipeline.params import read_yaml
from pipeline.run_folders.source import PACKAGE, code_digest, code_without_texts, module_files
from tests.rooms import (
    BEGIN,
    COMMANDS,
    DOCUMENT,
    END,
    LINE,
    MACHINERY,
    RESULTS,
    SCIENCE,
    arrows,
    drawing,
    imported,
    room,
    tree,
)
from tests.small import ROOT

DOORS = {"mlflow": "tracking", "optuna": "sweep", "pandas": "report", "matplotlib": "figures", "ray": "processes"}
DOORS |= {"pyarrow": "files", "arviz_stats": "evaluation"}
STAGES = ["fetch", "prepare", "sweep", "train", "evaluate", "report"]
FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_module_has_its_place_in_the_line() -> None:
    """Every module of the package stands in the line once."""
    assert {room(path) for path in FILES} - {"__init__"} == set(LINE)


def test_imports_run_one_way() -> None:
    """A module imports only modules that stand before it in the line."""
    upwards = {
        (one, other) for one, rooms in arrows().items() for other in rooms if LINE.index(other) > LINE.index(one)
    }
    assert not upwards


def test_the_science_imports_no_machinery() -> None:
    """Neither the science nor what it writes and reads imports the machinery or the commands."""
    imports = {other for name in (*SCIENCE, *RESULTS) for other in arrows()[name]}
    assert not imports & {*MACHINERY, *COMMANDS}


def test_the_figure_of_the_rooms_is_that_of_the_imports() -> None:
    """docs/architecture.md shows the rooms and their imports as they are; `make docs` draws them anew."""
    assert f"{BEGIN}{drawing()}{END}" in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize(("library", "door"), DOORS.items())
def test_a_big_library_has_one_door(library: str, door: str) -> None:
    """MLflow, Optuna, pandas, matplotlib and Ray are each imported by one module alone."""
    users = {room(path) for path in FILES if any(name.split(".")[0] == library for name in imported(path))}
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


def test_a_stage_is_short() -> None:
    """No module of a stage has more than 60 lines."""
    assert all(len(path.read_text().splitlines()) <= 60 for path in (PACKAGE / "stages").glob("*.py"))


def test_every_stage_is_in_the_pipeline() -> None:
    """The stages of dvc.yaml are the modules of pipeline/stages, in the order of the work."""
    assert list(read_yaml(ROOT / "dvc.yaml")["stages"]) == STAGES
    assert {path.stem for path in (PACKAGE / "stages").glob("*.py")} - {"__init__", "__main__"} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_the_place_of_its_shell(stage: str) -> None:
    """A stage is a child of DVC itself, whose end it follows: `dash` would otherwise stand between the two."""
    entry = read_yaml(ROOT / "dvc.yaml")["stages"][stage]
    assert entry.get("do", entry)["cmd"].startswith(f"exec python -m pipeline.stages {stage}")


def test_module_files_follow_lazy_and_nested_imports() -> None:
    """The transitive imports of the training hold the model and the data reader, and no tracking."""
    rooms = {room(path) for path in module_files("pipeline.training")}
    assert {"training", "models", "objectives", "distributions", "data", "params"} <= rooms
    assert not rooms & {"tracking", "sweep", "report", "stages"}


def test_the_code_digest_is_of_the_code_alone() -> None:
    """Two calls give one digest, and another module has another."""
    assert code_digest("pipeline.training") == code_digest("pipeline.training") != code_digest("pipeline.params")


def test_a_text_for_readers_is_no_code() -> None:
    """Comments, docstrings, descriptions and line breaks leave the digest as it is; any other change is another."""
    plain = 'def f(x):\n    return 2 * x\n\nclass P:\n    n: int = Field(ge=0, description="A number.")'
    texts = (
        '"""A module."""\ndef f(x):  # doubles\n    """Double."""\n    return 2 * x\nclass P:\n'
        '    """P."""\n    n: int = Field(\n        ge=0,\n        description="Another, "\n        "longer.",\n    )'
    )
    digest = code_without_texts(ast.parse(plain))
    assert digest == code_without_texts(ast.parse(texts))
    changes = {"2 * x": "2 + x", "ge=0": "ge=1", "n: int": "m: int", "    return 2 * x": "    'y'\n    return '2 * x'"}
    assert all(digest != code_without_texts(ast.parse(plain.replace(*change))) for change in changes.items())
    assert len({code_without_texts(ast.parse(text)) for text in ("f('a b')", "f('a', 'b')", "f(('a', 'b'))")}) == 3


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


ENVIRONMENT = {
    "environment.py",
    "location.py",  # runs before anything else is imported
    "startup.py",  # the same
    "redaction.py",  # looks for passwords in variables; `environment` needs it
}


def test_the_environment_is_read_in_one_place() -> None:
    """No module but `environment` touches `os.environ`, those excepted that cannot import it."""
    users = set()
    for path in FILES:
        for node in ast.walk(tree(path)):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if name in ("environ", "environb", "getenv", "putenv", "unsetenv"):
                users.add(path.relative_to(PACKAGE).as_posix())
    assert users <= ENVIRONMENT


DEFINES = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.AugAssign


def test_a_module_defines_and_does_nothing() -> None:
    """At import a module binds names and has docstrings; what it does, it does when it is called or is the program."""
    busy = []
    for path in FILES:
        for node in tree(path).body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            guard = isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING")
            registers = ast.unparse(node).startswith("app.add_typer(")  # which is how Typer's commands are defined
            if not (docstring or guard or registers or isinstance(node, DEFINES)):
                busy.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)[:60]}")
    assert busy == []


def test_private_attributes_are_those_of_the_own_class() -> None:
    """Private attributes of other objects are used in `sweep/compat.py` alone, where Optuna's are listed."""
    users = []
    for path in FILES:
        if path.relative_to(PACKAGE).as_posix() == "sweep/compat.py":
            continue
        own = {node.name for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
                owner = ast.unparse(node.value)
                if owner not in ("self", "cls", "os", "sys") and node.attr not in own:
                    users.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}")
    assert users == []


@pytest.mark.slow
def test_what_a_module_offers_is_used() -> None:
    """Every name in the `__all__` of a module, packages apart, is used by another module, a test or an experiment."""
    trees = {
        p: ast.parse(p.read_text()) for d in ("pipeline", "tests", "experiments") for p in (ROOT / d).rglob("*.py")
    }
    users: dict[str, set[Path]] = {}
    for path, module in trees.items():
        for node in ast.walk(module):
            names = [node.attr] if isinstance(node, ast.Attribute) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                users.setdefault(name, set()).add(path)
    unused = []
    for path in set(FILES) - set(PACKAGE.rglob("__init__.py")):
        for node in trees[path].body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                unused += [
                    f"{path.name}: {n}" for n in ast.literal_eval(node.value) if not users.get(n, set()) - {path}
                ]
    assert unused == []


WORDS = {
    r"'[^']*'|\"[^\"]*\"": "S",
    r"\b(?!(if|for|in|not|def|return|with|else|and|or)\b)[A-Za-z_]\w*": "n",
    r"\d+": "0",
}


@pytest.mark.parametrize("shape", [False, True])
def test_no_two_places_share_ten_lines(shape: bool) -> None:
    """Ten lines in a row, but for blanks, comments and imports, stand in one place alone; with other names, too."""
    places: dict[tuple[str, ...], str] = {}
    shared = []
    for path in FILES:
        if shape and (path.name == "registry.py" or path.parent.name == "sections"):  # rows of a table have one form
            continue
        imports = [node for node in ast.walk(tree(path)) if isinstance(node, (ast.Import, ast.ImportFrom))]
        without = {n for node in imports for n in range(node.lineno, node.end_lineno + 1)}
        lines = [(n, line.strip()) for n, line in enumerate(path.read_text().splitlines(), start=1) if n not in without]
        lines = [(n, line) for n, line in lines if line and not line.startswith("#")]
        for pattern, word in WORDS.items() if shape else ():
            lines = [(n, re.sub(pattern, word, line)) for n, line in lines]
        for start in range(len(lines) - 9):
            key, where = tuple(line for _, line in lines[start : start + 10]), f"{path.name}:{lines[start][0]}"
            if not shape or len(set(key)) > 4:  # a list of names has the shape of any other
                shared += [f"{where} and {places[key]}"] if key in places else []
                places.setdefault(key, where)
    assert shared == []


def test_a_test_says_a_sentence() -> None:
    """Every test function has a docstring that ends as a sentence does."""
    silent = []
    for path in (ROOT / "tests").glob("test_*.py"):
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                text = (ast.get_docstring(node) or "").split("\n\n")[0]
                if not text.endswith("."):
                    silent.append(f"{path.name}: {node.name}")
    assert silent == []
