"""Time whole training steps, reading included, against the same model in torch's own padded layers.

    python benchmarks/training_step.py [--preset paper] [--batch 16 4] [--precision fp32 bf16] [--compile]

Ours: proteins packed one after another, threads that read ahead. The peer (`padded_peer.py`): `nn.TransformerEncoder`
over padded batches, a `DataLoader` with two workers. Both start with the same weights and take the same batches with
the same masks, so they must give the same losses at every step; if they do not, the script fails. The sides take turns
step by step, so that whatever else the machine does hits both. Features are synthetic (random numbers, lengths like
those of proteins); speed does not depend on what they are.
"""

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from padded_peer import FlatFiles, PaddedSide, Proteins, decoder_rows, make_loader
from store_peers import WIDTHS, synthetic

from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.writer import write_store
from amma.train.data.channel_moments import measure_moments
from amma.train.data.corpus import Corpus
from amma.train.data.loader import Loader
from amma.train.data.packing import Packer
from amma.train.data.streams import Mix, Stream
from amma.train.model.amma import AMMA
from amma.train.model.config import Preset, find_preset
from amma.train.model.family import make_objective
from amma.train.run.arithmetic import arithmetic, one_thread
from amma.train.run.config import MixConfig, OptimizerConfig
from amma.train.run.execution import prepare_layers
from amma.train.run.optimizer import make_optimizer
from amma.train.run.step import Stepper
from amma.train.run.step_input import StepInput, prepare_step

CPU = torch.device("cpu")
GOALS = {16: 1.7, 4: 1.3}
"""Times the peer's speed, by batch size."""
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}
"""Largest difference of the two losses at any step, over the loss."""
OPTIMIZER = OptimizerConfig()


class Proteome:
    """Synthetic triplets in a store, and the batches of every step."""

    def __init__(self, folder: Path, proteins: int) -> None:
        path = folder / "store.zarr"
        write_store(path, synthetic(proteins, 0), widths=WIDTHS, fingerprint={}, random_weights=True)
        self.store = FeatureStore(path)
        self.corpus = Corpus([self.store])
        self.files = FlatFiles(self.store, folder)
        self.everything = np.arange(proteins)

    def model(self, preset: Preset) -> AMMA:
        """A model with random weights, always the same, and a standardiser fitted to some of the proteins."""
        torch.manual_seed(0)
        model = AMMA(preset.model, WIDTHS)
        moments = measure_moments(self.corpus, self.everything[:16], threads=2) or {}
        for modality, measured in moments.items():
            model.standardiser.fit(modality, measured)
        return model

    def mix(self, batch: int) -> Mix:
        """Batches of triplets in random order."""
        return Mix([Stream("triplet", self.everything, seed=0)], MixConfig(batch_size=batch))


class OurSide:
    """Steps as `amma-train pretrain` takes them."""

    def __init__(self, model: AMMA, *, bf16: bool, compiled: bool, threads: int) -> None:
        torch.set_num_threads(threads)
        if compiled:
            torch.compiler.reset()  # several models in one process would use up what may be compiled of one function
        prepare_layers(model, CPU, compiled=compiled, recomputed=False, bf16=bf16)
        self.stepper = Stepper(
            model,
            make_optimizer(model, OPTIMIZER),
            make_objective("asymmetric"),
            device=CPU,
            clip=OPTIMIZER.clip,
            bf16=bf16,
        )
        self.threads = threads

    def loader(self, proteome: Proteome, mix: Mix, preset: Preset, steps: int) -> Loader[StepInput]:
        """What reads and masks the batches ahead."""
        pack = Packer(CPU)
        return Loader(
            lambda step: prepare_step(proteome.corpus, mix.plan(step), step, seed=0, mask=preset.mask, pack=pack),
            0,
            steps,
            threads=self.threads,
            ahead=2 * self.threads,
            begin=one_thread,
        )

    def take(self, given: StepInput) -> float:
        """One update; its loss."""
        with arithmetic(self.threads, CPU):
            return self.stepper.take(given).read().loss


@dataclass(frozen=True)
class Comparison:
    """One preset, batch size and precision: seconds of each side's steps, and what else was seen."""

    batch: int
    precision: str
    seconds: dict[str, list[float]]
    largest_difference: float
    waited: float
    rows: dict[str, tuple[int, int]]
    """Of each side, rows of the decoders that are tokens, and those computed."""

    def ratio(self, side: str) -> float:
        """The median over steps of how many times as fast as the peer it was."""
        return statistics.median(
            theirs / own for theirs, own in zip(self.seconds["padded"], self.seconds[side], strict=True)
        )


def compare(
    proteome: Proteome, preset: Preset, *, batch: int, precision: str, steps: int, compiled: bool, threads: int
) -> Comparison:
    """Take the same steps on all sides in turn; the first only warms up. Raises `SystemExit` where losses differ."""
    bf16 = precision == "bf16"
    sides = {"packed": OurSide(proteome.model(preset), bf16=bf16, compiled=False, threads=threads)}
    if compiled:
        sides["packed, compiled"] = OurSide(proteome.model(preset), bf16=bf16, compiled=True, threads=threads)
    peer = PaddedSide(proteome.model(preset), lr=OPTIMIZER.lr, weight_decay=OPTIMIZER.weight_decay, bf16=bf16)
    mix = proteome.mix(batch)
    batches = [
        [(draw.protein, draw.epoch, draw.position) for portion in mix.plan(step) for draw in portion.draws]
        for step in range(steps + 1)
    ]
    rows = {"packed": (0, 0), "padded": (0, 0)}
    counted = RowCounter(sides["packed"].stepper.model)
    seconds: dict[str, list[float]] = {name: [] for name in (*sides, "padded")}
    largest = 0.0
    workers = iter(make_loader(Proteins(proteome.files, preset.mask, seed=0), batches))
    loaders = {name: side.loader(proteome, mix, preset, steps + 1) for name, side in sides.items()}
    inputs = {name: iter(loader) for name, loader in loaders.items()}

    def our_turn(name: str) -> float:
        return sides[name].take(next(inputs[name]))

    def their_turn() -> float:
        found = next(workers)
        some, all_ = decoder_rows(found)
        rows["padded"] = (rows["padded"][0] + some, rows["padded"][1] + all_)
        rows["packed"] = (rows["packed"][0] + some, 0)
        return peer.take(found)

    turns = {**{name: (lambda name=name: our_turn(name)) for name in sides}, "padded": their_turn}
    try:
        for step in range(steps + 1):
            losses = {}
            for name in list(turns) if step % 2 == 0 else reversed(list(turns)):
                gc.collect()
                began = time.perf_counter()
                losses[name] = turns[name]()
                took = time.perf_counter() - began
                if step:
                    seconds[name].append(took)
            for name, loss in losses.items():
                apart = abs(loss - losses["padded"]) / losses["padded"]
                largest = max(largest, apart)
                if not apart <= TOLERANCE[precision]:
                    raise SystemExit(
                        f"step {step}, batch {batch}, {precision}: the loss is {loss:.8g} {name}, "
                        f"{losses['padded']:.8g} padded; they may differ by {TOLERANCE[precision]:g} of it"
                    )
            if step == 0:
                loaders["packed"].waited = 0.0
    finally:
        for loader in loaders.values():
            loader.__exit__(None, None, None)
    rows["packed"] = (rows["packed"][0], counted.rows)
    waited = loaders["packed"].waited / sum(seconds["packed"])
    return Comparison(batch, precision, seconds, largest, waited, rows)


class RowCounter:
    """Counts the rows that enter the first layer of every decoder."""

    def __init__(self, model: Any) -> None:
        self.rows = 0
        for decoder in model.decoders.values():
            decoder.transformer.layers[0].register_forward_pre_hook(self._count)

    def _count(self, layer: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        self.rows += len(given[0])


def table(found: list[Comparison], preset: str) -> Iterator[str]:
    """Lines of Markdown: speeds, and the bounds beside what was measured."""
    yield f"\nPreset `{preset}`, whole steps with reading; medians of steps taken in turn.\n"
    yield "| batch | precision | side | s a step | proteins/s | × padded | at least | holds | losses differ by |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in found:
        for side, values in one.seconds.items():
            middle = statistics.median(values)
            ratio = one.ratio(side)
            least = GOALS.get(one.batch) if side != "padded" else None
            bound = "| |" if least is None else f"| {least}× | {'yes' if ratio >= least else '**no**'} |"
            yield (
                f"| {one.batch} | {one.precision} | {side} | {middle:.2f} | {one.batch / middle:.2f} | {ratio:.2f}× "
                f"{bound} {one.largest_difference:.1e} (of {TOLERANCE[one.precision]:g}) |"
            )
    yield "\n| batch | precision | waiting for data (< 2 %) | decoder rows that are padding (< 5 %) | the peer's |"
    yield "|---|---|---|---|---|"
    for one in found:
        shares = {side: 1 - some / all_ for side, (some, all_) in one.rows.items()}
        yield (
            f"| {one.batch} | {one.precision} | {one.waited:.2%} | {shares['packed']:.1%} | {shares['padded']:.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 4])
    parser.add_argument("--precision", nargs="+", choices=list(TOLERANCE), default=list(TOLERANCE))
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 7], help="timed ones, for each batch size")
    parser.add_argument("--compile", action="store_true", help="our compiled steps too, which first take minutes")
    parser.add_argument("--proteins", type=int, default=128, help="of the synthetic store, 2.8 MB each, twice on disk")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all processors")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder if not given")
    arguments = parser.parse_args()
    if len(arguments.steps) not in (1, len(arguments.batch)):
        parser.error(f"--steps takes one number, or one for each of the {len(arguments.batch)} batch sizes")
    steps = dict(zip(arguments.batch, arguments.steps * (len(arguments.batch) // len(arguments.steps)), strict=True))
    torch.set_num_threads(arguments.threads)
    preset = find_preset(arguments.preset)
    print(f"{describe('cpu', arguments.threads)}; load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        proteome = Proteome(Path(folder), arguments.proteins)
        found = []
        for batch in arguments.batch:
            for precision in arguments.precision:
                found.append(
                    compare(
                        proteome,
                        preset,
                        batch=batch,
                        precision=precision,
                        steps=steps[batch],
                        compiled=arguments.compile,
                        threads=arguments.threads,
                    )
                )
                print(f"batch {batch}, {precision}: {found[-1].ratio('packed'):.2f}×", flush=True)
    print("\n".join(table(found, arguments.preset)))


if __name__ == "__main__":
    main()
