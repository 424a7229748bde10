"""The benchmark of encoders compares like with like, and says what it measured."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "encoders.py"


def test_esm_is_timed_against_the_recipe_on_the_same_numbers(tmp_path: Path) -> None:
    small = ["--layers", "1", "--width", "80", "--corpus", "2000", "--batches", "1", "--rounds", "1", "--threads", "1"]
    command = [sys.executable, str(BENCHMARK), "--only", "esm", *small, "--json", str(tmp_path / "figures.json")]

    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    figures = json.loads((tmp_path / "figures.json").read_text())
    lines = {line["what"]: line for line in figures["lines"]}
    assert all(f"| {what} | {line['per_second']:,.0f} residues/s |" in printed for what, line in lines.items())
    assert figures["machine"] in printed
    # The sides agree on every residue of every protein, so they did the same work.
    assert lines["ours, fp32"]["difference"] <= 1e-5
    assert 1e-5 < lines["ours, bf16"]["difference"] < 0.06
    assert "full over 2,000 proteins" in printed
