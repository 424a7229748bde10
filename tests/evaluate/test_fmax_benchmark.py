"""The benchmark of Fmax compares like with like, and holds what it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amma.featurize.encoders.torchdrug_worker import PYTHON_VARIABLE, find_python
from amma.manifests.errors import WeightsError

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "fmax_speed.py"


def run(folder: Path, *options: str, **variables: str) -> tuple[str, dict[str, dict[str, Any]]]:
    file = folder / "figures.json"
    command = [sys.executable, str(BENCHMARK), *options, "--json", str(file)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | variables).stdout
    return printed, {line["what"]: line for line in json.loads(file.read_text())["lines"]}


def test_without_torchdrug_ours_is_timed_and_the_other_side_is_said_to_be_missing(tmp_path: Path) -> None:
    size = ("--proteins", "300", "--terms", "100", "--rounds", "1")
    printed, lines = run(tmp_path, *size, **{PYTHON_VARIABLE: str(tmp_path / "python")})
    assert "torchdrug's f1_max was not timed" in printed
    assert "300 proteins × 100 terms" in printed
    assert set(lines) == {"ours, float32", "ours, float64"}
    assert lines["ours, float32"]["fmax"] == lines["ours, float64"]["fmax"] > 0.3
    assert all(line["seconds"] > 0 and line["ratio"] is None for line in lines.values())


@pytest.mark.slow
def test_ours_is_four_times_as_fast_as_torchdrugs_in_linear_memory_and_gives_the_same(tmp_path: Path) -> None:
    try:
        find_python()
    except WeightsError as error:
        pytest.skip(str(error))
    _, lines = run(tmp_path, "--rounds", "5")
    for name in ("ours, float32", "ours, float64"):
        assert lines[name]["ratio"] >= 4
        assert lines[name]["fmax"] == pytest.approx(lines["torchdrug"]["fmax"], abs=1e-5)
        assert lines[name]["peak"] < lines["torchdrug"]["peak"] / 4
        assert lines[name]["peak"] < 2.5 * lines[name]["peak_of_half"]
