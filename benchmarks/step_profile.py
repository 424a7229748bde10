"""Say what a training step spends its time on: products of matrices, attention, the optimizer, everything else.

    python benchmarks/step_profile.py [--preset paper] [--batch 16] [--eager] [--write docs/profile.md]

One step of synthetic proteins (as in `training_step.py`) under torch's profiler, eager and compiled, in fp32 and bf16,
after steps that warm up. Shares are of the step without the optimizer, whose time does not grow with the batch.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from machine import describe
from torch.autograd.profiler_util import EventList
from training_step import CPU, OurSide, Proteome

from amma.train.data.packing import Packer
from amma.train.model import linear
from amma.train.model.config import find_preset
from amma.train.run.step_input import prepare_step

GEMM = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addbmm", "aten::mkldnn_linear"}
GEMM |= {"mkldnn::_linear_pointwise"}  # what `linear.py` calls where it may
OPTIMIZER = {"aten::_fused_adamw_"}
GOALS = {"fp32": 0.75, "bf16": 0.50}
"""Least share of products and attention in a compiled step of 16 proteins."""
SHOWN = 12


@dataclass(frozen=True)
class Shares:
    """Seconds of one step, and what took them."""

    precision: str
    mode: str
    whole: float
    gemm: float
    attention: float
    optimizer: float
    rest: list[tuple[str, float]]
    """Operators that are none of these, slowest first."""

    @property
    def work(self) -> float:
        """All but the optimizer."""
        return self.whole - self.optimizer


def measure(side: OurSide, proteome: Proteome, *, preset: str, batch: int, precision: str, mode: str) -> Shares:
    """Profile one step after two."""
    mix, pack, mask = proteome.mix(batch), Packer(CPU), find_preset(preset).mask
    for number in range(2):
        side.take(prepare_step(proteome.corpus, mix.plan(number), number, seed=0, mask=mask, pack=pack))
    given = prepare_step(proteome.corpus, mix.plan(2), 2, seed=0, mask=mask, pack=pack)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds) as profile, torch.profiler.record_function("whole step"):
        side.take(given)
    return sort(profile.key_averages(), precision, mode)


def sort(events: EventList, precision: str, mode: str) -> Shares:
    """Self times by what they are; time outside of operators is the step's own and counts as Python."""
    own = {event.key: event.self_cpu_time_total / 1e6 for event in events}
    whole = next(event.cpu_time_total for event in events if event.key == "whole step") / 1e6
    attention = {key for key in own if "scaled_dot_product" in key or "flash_attention" in key}
    known = GEMM | OPTIMIZER | attention
    rest = sorted(((key, took) for key, took in own.items() if key not in known), key=lambda one: -one[1])
    named = [("Python, outside of operators" if key == "whole step" else key, took) for key, took in rest]
    return Shares(
        precision,
        mode,
        whole,
        sum(own.get(key, 0.0) for key in GEMM),
        sum(own[key] for key in attention),
        sum(own.get(key, 0.0) for key in OPTIMIZER),
        named[:SHOWN],
    )


def report(found: list[Shares], *, preset: str, batch: int, machine: str) -> Iterator[str]:
    """The page that is kept with the project."""
    yield "# What a training step spends its time on\n"
    yield f"Written by `benchmarks/step_profile.py`. {machine}; preset `{preset}`, {batch} synthetic proteins a step."
    library = "oneDNN" if linear.PREFER_ONEDNN else "MKL"
    yield f"Products in float32 are {library}'s. Shares are of the step without the optimizer.\n"
    yield "| precision | layers | s a step | products | attention | both | goal | holds | optimizer, s |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in found:
        both = (one.gemm + one.attention) / one.work
        goal = GOALS[one.precision]
        bound = f"{goal:.0%} | {'yes' if both >= goal else '**no**'}" if one.mode == "compiled" else "|"
        yield (
            f"| {one.precision} | {one.mode} | {one.work:.2f} | {one.gemm / one.work:.1%} "
            f"| {one.attention / one.work:.1%} | {both:.1%} | {bound} | {one.optimizer:.2f} |"
        )
    for one in found:
        yield f"\nWhere the rest goes, {one.precision}, {one.mode}:\n\n| operator | s | share |\n|---|---|---|"
        for key, took in one.rest:
            if took > 0.001 * one.work:
                yield f"| `{key}` | {took:.3f} | {took / one.work:.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--eager", action="store_true", help="without the compiled steps, which take minutes")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all processors")
    parser.add_argument("--folder", type=Path, help="where the store is written; a temporary folder if not given")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page into this file too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        proteome = Proteome(Path(folder), 3 * arguments.batch)
        for precision in GOALS:
            for mode in ("eager",) if arguments.eager else ("eager", "compiled"):
                side = OurSide(
                    proteome.model(find_preset(arguments.preset)),
                    bf16=precision == "bf16",
                    compiled=mode == "compiled",
                    threads=arguments.threads,
                )
                found.append(
                    measure(
                        side,
                        proteome,
                        preset=arguments.preset,
                        batch=arguments.batch,
                        precision=precision,
                        mode=mode,
                    )
                )
    machine = f"{describe('cpu', arguments.threads)}; load {os.getloadavg()[0]:.1f}"
    page = "\n".join(report(found, preset=arguments.preset, batch=arguments.batch, machine=machine))
    print(page)
    if arguments.write:
        arguments.write.write_text(page + "\n")


if __name__ == "__main__":
    main()
