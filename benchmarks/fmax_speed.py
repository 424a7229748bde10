"""Time exact Fmax beside torchdrug's own `f1_max`, on the same scores: both sides take turns in every round.

    python benchmarks/fmax_speed.py [--proteins 3000] [--terms 2000] [--rounds 7] [--threads 1] [--json FILE]

Each side is a process of its own with the scores in memory, timed inside (`fmax_worker.py`); torchdrug's runs with the
Python of the environment that `make torchdrug` makes. Labels are synthetic, with the density and the skew of a large
GO branch, and there are no ties, so both sides should give the same figure. Peak memory is what one computation needs
beyond its arguments, at this size and with half the proteins.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import describe

from amma.featurize.encoders.torchdrug_worker import find_python
from amma.manifests.errors import WeightsError

HEAD = "| | seconds | × torchdrug | goal | Fmax | peak memory | … of half the proteins |\n|---|---|---|---|---|---|---|"
WORKER = Path(__file__).with_name("fmax_worker.py")
REFERENCE = "torchdrug"
OURS = ("ours, float32", "ours, float64")
GOAL = 4.0
TERMS_A_PROTEIN = 7.0
UNLABELLED = 0.23
"""Both as in GO-BP; the k-th most frequent term has a share of about 1/k, as in EC."""
SIGNAL = 4.0
"""By how much the logits of true pairs are higher: gives an Fmax near 0.5."""


@dataclass(frozen=True)
class Answer:
    """What one computation took and gave."""

    seconds: float
    value: float
    peak: int | None


class Side:
    """One worker process; `once` lets it compute."""

    def __init__(self, name: str, python: Path | str, folder: Path, threads: int) -> None:
        isolated = ["-I"] if name == REFERENCE else []
        self._process = subprocess.Popen(
            [str(python), *isolated, str(WORKER), name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )

    def once(self) -> Answer:
        """Compute; its first time, this also waits for the process to have loaded everything."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended with code {self._process.wait()}; its words are above")
        return Answer(**json.loads(line))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def write_scores(folder: Path, proteins: int, terms: int) -> str:
    """Logits and labels into `folder`; what they are, in words."""
    rng = np.random.default_rng(0)
    share_K = 1 / np.arange(10, terms + 10)
    share_K *= TERMS_A_PROTEIN / (1 - UNLABELLED) / share_K.sum()
    target = rng.random((proteins, terms)) < np.minimum(share_K, 0.5)
    target[rng.random(proteins) < UNLABELLED] = False
    logit = np.log(share_K) + rng.normal(size=target.shape) + SIGNAL * target
    folder.mkdir(exist_ok=True)
    np.save(folder / "score.npy", logit.astype(np.float32))
    np.save(folder / "target.npy", target)
    return f"{proteins:,} proteins × {terms:,} terms, {target.sum() / proteins:.1f} true terms a protein"


def take_turns(sides: dict[str, Side], rounds: int) -> dict[str, list[Answer]]:
    """Every side has its turn in a round, forwards then backwards, after a first one that tells peaks of memory."""
    answers = {name: [side.once()] for name, side in sides.items()}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            answers[name].append(sides[name].once())
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", type=int, default=3000)
    parser.add_argument("--terms", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="torchdrug's; ours uses one whatever this says")
    parser.add_argument("--json", type=Path, help="write all figures into this file too")
    arguments = parser.parse_args()

    pythons: dict[str, Path | str] = dict.fromkeys(OURS, sys.executable)
    try:
        pythons[REFERENCE] = find_python()
    except WeightsError as error:
        print(f"torchdrug's f1_max was not timed: {error}")
    with tempfile.TemporaryDirectory() as temporary:
        halves = {}
        for name, proteins in (("whole", arguments.proteins), ("half", arguments.proteins // 2)):
            folder = Path(temporary) / name
            words = write_scores(folder, proteins, arguments.terms)
            with ExitStack() as stack:
                sides = {each: Side(each, python, folder, arguments.threads) for each, python in pythons.items()}
                for side in sides.values():
                    stack.callback(side.close)
                halves[name] = take_turns(sides, arguments.rounds if name == "whole" else 0)
            if name == "whole":
                what = words
    machine = describe("cpu", arguments.threads)
    print(f"{machine}; medians of {arguments.rounds} rounds in which all take turns.\n\n{what}.\n")
    lines = summarise(halves["whole"], halves["half"])
    print(HEAD)
    for line in lines:
        print("| " + " | ".join(_cells(line)) + " |")
    if arguments.json:
        written = {"machine": machine, "rounds": arguments.rounds, "what": what, "lines": lines}
        arguments.json.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")


def summarise(whole: dict[str, list[Answer]], half: dict[str, list[Answer]]) -> list[dict[str, float | str | None]]:
    """A line a side: medians of seconds, the ratio to torchdrug's, the figure, and peaks of memory in bytes."""
    median = {name: statistics.median(answer.seconds for answer in answers[1:]) for name, answers in whole.items()}
    return [
        {
            "what": name,
            "seconds": median[name],
            "ratio": median[REFERENCE] / median[name] if REFERENCE in median else None,
            "goal": None if name == REFERENCE else GOAL,
            "fmax": answers[0].value,
            "peak": answers[0].peak,
            "peak_of_half": half[name][0].peak,
        }
        for name, answers in whole.items()
    ]


def _cells(line: dict[str, float | str | None]) -> list[str]:
    def shown(key: str, form: str, scale: float = 1.0) -> str:
        value = line[key]
        return "" if value is None else format(float(value) / scale, form)

    peaks = [f"{shown(key, '.0f', 1e6)} MB" if line[key] is not None else "" for key in ("peak", "peak_of_half")]
    return [
        str(line["what"]),
        shown("seconds", ".3f"),
        shown("ratio", ".1f"),
        shown("goal", "g"),
        shown("fmax", ".7f"),
        *peaks,
    ]


if __name__ == "__main__":
    main()
