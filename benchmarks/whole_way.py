"""Time every step from files to report, each as the command a user types.

    python benchmarks/whole_way.py DATA OUT [--epochs 2]

DATA has sequences.fasta, structures/, descriptions.tsv, ec.tsv, train.txt, valid.txt, test.txt (`amma-manifest toy`
makes such a folder); OUT must not exist. Prints a Markdown table; wall-clock seconds include the start of Python.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

PROGRAMS = Path(sys.executable).parent


def steps(data: Path, epochs: int) -> dict[str, list[str | Path]]:
    return {
        "manifest": [
            "amma-manifest", "build", "--sequences", data / "sequences.fasta", "--structures", data / "structures",
            "--descriptions", data / "descriptions.tsv", "all.parquet",
        ],
        "featurize (tiny)": ["amma-featurize", "run", "all.parquet", "all.zarr", "--preset", "tiny"],
        "verify": ["amma-featurize", "verify", "all.zarr"],
        f"pretrain (tiny, {epochs} epochs)": [
            "amma-train", "pretrain", "all.zarr", "run", "--preset", "tiny", "--epochs", str(epochs),
            "--exclude", "held.txt",
        ],
        "evaluate (EC class, fusion, 3 seeds)": [
            "amma-eval", "function", "run", "all.zarr", "report", "--task", "ec-class", "--labels", data / "ec.tsv",
            "--splits", data, "--fusion-lr", "1e-4", "--head-lr", "1e-3", "--epochs", "20",
        ],
        "predict (from structures)": ["amma-eval", "predict", "report", data / "structures", "predictions"],
        "alignment": ["amma-eval", "alignment", "run", "all.zarr", "alignment"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    arguments.out.mkdir(parents=True)
    (arguments.out / "held.txt").write_text((data / "valid.txt").read_text() + (data / "test.txt").read_text())
    seconds = {}
    for name, (program, *words) in steps(data, arguments.epochs).items():
        started = time.perf_counter()
        subprocess.run([PROGRAMS / str(program), *words], cwd=arguments.out, check=True)
        seconds[name] = time.perf_counter() - started
    num_proteins = (data / "sequences.fasta").read_text().count(">")
    size = sum(path.stat().st_size for path in (arguments.out / "all.zarr").rglob("*") if path.is_file())
    print(f"\n{num_proteins:,} proteins, store of {size / 1e6:.1f} MB; {len(os.sched_getaffinity(0))} processors,")
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__.split('+')[0]},")
    print(f"amma {version('amma')}; one run.\n\n| step | seconds |\n|---|---|")
    for name, duration in seconds.items():
        print(f"| {name} | {duration:.0f} |")


if __name__ == "__main__":
    main()
