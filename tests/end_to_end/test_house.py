"""The house rules that a machine can check."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("manifests", "featurize", "train", "evaluate")
"""In the order in which data flows: each may import itself and those before it."""
COMMANDS = {"amma-manifest": "manifests", "amma-featurize": "featurize", "amma-train": "train", "amma-eval": "evaluate"}
HEAVY = (
    "torch",
    "pandas",
    "pyarrow",
    "zarr",
    "transformers",
    "esm",
    "gemmi",
    "biotite",
    "plotly",
    "sklearn",
    "dask",
    "distributed",
    "networkx",
    "obonet",
)


def modules_of(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


def imported_folders(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name.split(".")[1] for name in names if name.startswith("amma.")}


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_only_against_the_flow_of_data(folder: str) -> None:
    allowed = set(FOLDERS[: FOLDERS.index(folder) + 1])
    for path in modules_of(folder):
        assert imported_folders(path) <= allowed, path


def test_no_module_grows_past_one_idea() -> None:
    long = {path.name: n for f in FOLDERS for path in modules_of(f) if (n := len(path.read_text().splitlines())) >= 400}
    assert not long


def test_constraints_pin_public_versions_only() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert "torch==2.13.0" in pins
    for pin in pins:
        assert "+" not in pin, pin
        assert "==" in pin, pin


def test_no_dependency_names_a_local_build() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert not [need for need in project["dependencies"] if "+" in need or "@" in need]
    assert not [need for need in project["dependencies"] if need.startswith("torchdrug")]


@pytest.mark.parametrize("folder", COMMANDS.values())
def test_help_of_every_command_needs_nothing_heavy(folder: str) -> None:
    script = f"""
import sys
from typer.main import get_command
from amma.{folder}.cli import app
command = get_command(app)
for name, verb in getattr(command, "commands", {{"": command}}).items():
    try:
        verb.main(["--help"], standalone_mode=False)
    except SystemExit:
        pass
heavy = [name for name in {HEAVY!r} if name in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_misuse_and_ends_with_2(command: str) -> None:
    program = Path(sys.executable).with_name(command)
    done = subprocess.run([program, "--no-such-option"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_package_installs_no_top_level_train_or_evaluate() -> None:
    script = (
        "import importlib.util as u; print([n for n in ('train','evaluate','featurize','manifests') if u.find_spec(n)])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.stdout.strip() == "[]"
