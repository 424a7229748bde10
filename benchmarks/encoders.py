"""Time the encoders against their references, both sides in one run, on the same proteins and threads.

    python benchmarks/encoders.py [--only esm|gearnet] [--threads 2] [--rounds 3] [--json FILE]

Prints a Markdown table: medians of rounds in which all take turns. Each half is a module `<half>_speed.py` beside this
one, with `add_arguments(parser)` and `measure(arguments)`.
"""

import argparse
import importlib
import json
import os
from pathlib import Path

import torch
from machine import describe
from rounds import HEAD

HALVES = [name for name in ("esm", "gearnet") if Path(__file__).with_name(f"{name}_speed.py").exists()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=HALVES, help="one half; default all")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all processors")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all figures into this file too")
    modules = {name: importlib.import_module(f"{name}_speed") for name in HALVES}
    for module in modules.values():
        module.add_arguments(parser)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    machine = describe(arguments.device, arguments.threads)
    print(f"{machine}; medians of {arguments.rounds} rounds in which all take turns.")
    written = {"machine": machine, "rounds": arguments.rounds, "lines": [], "notes": []}
    for name in [arguments.only] if arguments.only else HALVES:
        lines, notes = modules[name].measure(arguments)
        print("\n".join(["", HEAD, *(line.as_markdown() for line in lines), "", *notes]), flush=True)
        written["lines"] += [line.as_json() for line in lines]
        written["notes"] += notes
    if arguments.json:
        arguments.json.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
