"""Computes Fmax of stored scores each time a line comes in: one process for each side of `fmax_speed.py`.

    python fmax_worker.py ours|torchdrug FOLDER

Runs under either environment's Python, so it imports nothing of this project before it knows its side. For each line
of standard input it prints one of JSON: seconds, the figure, and the peak of memory in bytes beyond what the process
held before (null where the system does not tell; Linux does). Only the first peak tells all: later computations may
find memory that an earlier one left to the process.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"
FEW = 16


def memory(field: str) -> int | None:
    """Bytes of a field of /proc/self/status: VmRSS (held now), VmHWM (the most since it was forgotten)."""
    if not STATUS.exists():
        return None
    lines = [line.split() for line in STATUS.read_text().splitlines()]
    return next((int(words[1]) * 1024 for words in lines if words and words[0] == f"{field}:"), None)


def main() -> None:
    side, folder = sys.argv[1], Path(sys.argv[2])
    score, target = np.load(folder / "score.npy"), np.load(folder / "target.npy")
    if side == "torchdrug":
        import torch
        from torchdrug.metrics.metric import f1_max

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        # What its engine hands over: logits, and labels as floats.
        scores, targets = torch.from_numpy(score), torch.from_numpy(target).float()

        def run(proteins: slice) -> float:
            return float(f1_max(scores[proteins], targets[proteins]))
    else:
        from amma.evaluate.metrics.exact import fmax

        if side == "ours, float64":
            score = score.astype(np.float64)

        def run(proteins: slice) -> float:
            return fmax(score[proteins], target[proteins]).value

    run(slice(FEW))  # loads what is loaded late
    for _ in sys.stdin:
        if CLEAR.exists():
            CLEAR.write_text(FORGET_PEAK)
        before = memory("VmRSS")
        started = time.perf_counter()
        value = run(slice(None))
        seconds = time.perf_counter() - started
        peak = memory("VmHWM")
        beyond = None if before is None or peak is None else peak - before
        print(json.dumps({"seconds": seconds, "value": value, "peak": beyond}), flush=True)


if __name__ == "__main__":
    main()
