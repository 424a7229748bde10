"""The models of the family side by side: pretrained with several seeds, held against each other and against controls.

    python benchmarks/family.py STORE OUT --labels ec.tsv --splits DIR [--clusters TSV] [--seeds 3] [--epochs 4]

The validation and test proteins of DIR are kept out of pretraining, and all figures are theirs: errors of hidden and of
visible tokens over that of predicting the mean; debiased CKA and recall@k (mean of both ways) of modalities encoded
alone; effective rank; and EC class by `probe` and by `fusion`, with one pair of learning rates for everybody. Every
model is pretrained and tuned with the seeds 0, 1, …; cells are means ± sample standard deviations over them.

Prints one Markdown table. What is finished is kept in OUT, so the same command goes on after an interruption.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from torch import Tensor

from amma.evaluate.config import FinetuneConfig, Protocol, Rates, TaskName
from amma.evaluate.controls.baselines import untrained_models
from amma.evaluate.metrics.exact import aupr, fmax
from amma.evaluate.tasks.task import Task, read_task
from amma.evaluate.tuning.bench import Bench, Start
from amma.evaluate.tuning.finetune import predict, tune
from amma.evaluate.tuning.pooled import PooledInputs
from amma.featurize.store.reader import FeatureStore
from amma.manifests.files import write_json_atomically
from amma.manifests.labels import SPLITS
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.collate import collate
from amma.train.data.corpus import Corpus
from amma.train.data.position_profile import measure_profiles
from amma.train.data.streams import NUMBERS, STREAMS
from amma.train.data.training_set import VALIDATION_EPOCH
from amma.train.model.batch import PackedBatch, Visible
from amma.train.model.config import MaskConfig
from amma.train.model.fusion import FusionModel
from amma.train.model.masking import draw_batch, generator_for
from amma.train.model.reconstruction import Reconstruction
from amma.train.run.agreement import RECALL_AT, Agreement
from amma.train.run.arithmetic import arithmetic
from amma.train.run.checkpoint import load_model
from amma.train.run.config import StreamName
from amma.train.run.tally import ErrorTally, Part

PROGRAM = Path(sys.executable).with_name("amma-train")
REBUILDING = ("asymmetric", "symmetric", "no-auxiliary")
FAMILIES = (*REBUILDING, "contrastive")
BATCH = 16
CPU = torch.device("cpu")
PARTS: tuple[Part, ...] = ("hidden", "visible")
Figures = dict[str, float]
HeldOut = tuple[StreamName, int, PackedBatch]
Rebuild = Callable[[PackedBatch, Visible], dict[Modality, Tensor]]


def main() -> None:
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = {key: str(value) for key, value in sorted(vars(arguments).items()) if key != "out"}
    kept = arguments.out / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        raise SystemExit(f"{kept} has other settings than this command: give another folder, or the same settings.")
    write_json_atomically(kept, settings)
    held = arguments.out / "held.txt"
    held.write_text("".join((arguments.splits / f"{name}.txt").read_text() for name in ("valid", "test")))
    # Seed by seed, so that a table of fewer seeds can be had before all is done.
    for seed in range(arguments.seeds):
        for family in FAMILIES:
            pretrain(arguments, family, seed, held)
            finished(arguments, f"{family}-{seed}", lambda family=family, seed=seed: trained(arguments, family, seed))
        for family in ("asymmetric", "contrastive"):
            name = f"untrained {family}-{seed}"
            finished(arguments, name, lambda family=family, seed=seed: untrained(arguments, family, seed))
        finished(arguments, f"pooled-{seed}", lambda seed=seed: pooled(arguments, seed))
        finished(arguments, f"position-{seed}", lambda seed=seed: by_position(arguments, seed))
    print(describe("cpu", arguments.threads))
    print("\n".join(table(arguments.out, arguments.seeds)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--splits", type=Path, required=True, help="folder with train.txt, valid.txt, test.txt")
    parser.add_argument("--clusters", type=Path, help="for the validation split of pretraining")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--contrastive-epochs", type=int, default=20)
    parser.add_argument("--contrastive-batch", type=int, default=64)
    parser.add_argument("--tuning-epochs", type=int, default=15, help="of fusion at most; the head alone gets 50")
    parser.add_argument("--fusion-lr", type=float, default=1e-4)
    parser.add_argument("--head-lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def pretrain(arguments: argparse.Namespace, family: str, seed: int, held: Path) -> None:
    """Run the command a user would; one that is finished ends at once."""
    if (arguments.out / f"{family}-{seed}.json").exists():
        return
    contrastive = family == "contrastive"
    epochs = arguments.contrastive_epochs if contrastive else arguments.epochs
    words = [
        "pretrain", arguments.store, arguments.out / f"{family}-{seed}", "--preset", arguments.preset,
        "--family", family, "--seed", seed, "--epochs", epochs, "--lr", arguments.lr, "--exclude", held,
        "--batch-size", arguments.contrastive_batch if contrastive else 4, "--threads", arguments.threads,
        "--lr-step-epochs", max(1, epochs // 3), "--device", "cpu", "--log-every", 50,
    ]  # fmt: skip
    words += ["--clusters", arguments.clusters] if arguments.clusters else []
    subprocess.run([PROGRAM, *map(str, words)], check=True)


def finished(arguments: argparse.Namespace, name: str, measure: Callable[[], Figures]) -> None:
    """Measure once and keep the figures."""
    path = arguments.out / f"{name}.json"
    if path.exists():
        return
    began = time.monotonic()
    with arithmetic(arguments.threads, CPU):
        write_json_atomically(path, measure())
    print(f"{name}: measured in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def trained(arguments: argparse.Namespace, family: str, seed: int) -> Figures:
    loaded = load_model(arguments.out / f"{family}-{seed}")
    return of_model(arguments, loaded.model, loaded.config, seed)


def untrained(arguments: argparse.Namespace, family: str, seed: int) -> Figures:
    loaded = load_model(arguments.out / f"{family}-{seed}")
    return of_model(arguments, untrained_models(loaded)(seed), loaded.config, seed)


def pooled(arguments: argparse.Namespace, seed: int) -> Figures:
    """The encoders' own features with the same head: what a fusion model must beat."""
    standardiser = load_model(arguments.out / f"asymmetric-{seed}").model.standardiser
    with FeatureStore(arguments.store) as store:
        task = read_ec_class(arguments, store)
        inputs = PooledInputs(store, standardiser, [task.split(name).rows for name in SPLITS], device=CPU)
        return score(arguments, inputs, store, task, Protocol.PROBE, seed)


def of_model(arguments: argparse.Namespace, model: FusionModel, config: dict[str, Any], seed: int) -> Figures:
    with FeatureStore(arguments.store) as store:
        task = read_ec_class(arguments, store)
        figures = on_held_out(arguments, model, config, store)
        for protocol in (Protocol.PROBE, Protocol.FUSION):
            figures |= score(arguments, model, store, task, protocol, seed)
    return figures


def on_held_out(
    arguments: argparse.Namespace, model: FusionModel, config: dict[str, Any], store: FeatureStore
) -> Figures:
    """Errors under one set of masks for all models, and what the vectors of modalities encoded alone show."""
    batches = list(held_out_batches(store, (arguments.out / "held.txt").read_text().split()))
    figures = errors(model, config, batches, model) if config["model"]["family"] in REBUILDING else {}
    agreement = Agreement(frozenset(range(len(batches))), seed=0)
    for number, (_, _, batch) in enumerate(batches):
        agreement.add(number, model, batch)
    found = agreement.figures()
    for pair, of in found["pairs"].items():
        figures[f"debiased CKA, {pair}"] = of["cka"]
        figures[f"shuffled/debiased CKA, {pair}"] = of["cka_shuffled"]["mean"]
        for k in map(str, RECALL_AT):
            figures[f"recall@{k}, {pair}"] = statistics.fmean(way[k] for way in of["recall"].values())
            figures[f"shuffled/recall@{k}, {pair}"] = of["chance"][k]
    return figures | {f"effective rank, {m}": value for m, value in found["effective_rank"].items()}


@torch.no_grad()
def errors(model: FusionModel, config: dict[str, Any], batches: Sequence[HeldOut], rebuild: Rebuild) -> Figures:
    """Of hidden and of visible tokens, over those of predicting the mean of the model's standardiser."""
    objective = Reconstruction()
    ours, mean = ErrorTally(), ErrorTally()
    for stream, first, batch in batches:
        places = range(first, first + batch.num_proteins)
        rngs = [generator_for(0, NUMBERS[stream], VALIDATION_EPOCH, place) for place in places]
        visible = draw_batch(rngs, batch, MaskConfig.parse(config["mask"], source="checkpoint")).visible
        for tally, losses in (
            (ours, objective.errors(model, batch, visible, rebuild(batch, visible))),
            (mean, objective.of_the_mean(model, batch, visible)),
        ):
            for part in PARTS:
                for term, error in getattr(losses, part).items():
                    tally.add(term, part, float(error.total), error.count)
    relative = ours.relative(mean)
    return {f"{part}-token error, {m}": of[part] for m, of in relative.items() for part in PARTS}


def by_position(arguments: argparse.Namespace, seed: int) -> Figures:
    """The errors of predicting, at each position, the mean of all proteins that are not held out."""
    loaded = load_model(arguments.out / f"asymmetric-{seed}")
    held = (arguments.out / "held.txt").read_text().split()
    corpus = Corpus.open([arguments.store])
    rows = np.flatnonzero(~np.isin(list(corpus.ids), held))
    profiles = measure_profiles(corpus, rows, loaded.model.standardiser, threads=arguments.threads)
    corpus.close()

    def rebuild(batch: PackedBatch, _: Visible) -> dict[Modality, Tensor]:
        return {m: profiles[m].at(tokens.position_T) for m, tokens in batch.tokens.items()}

    with FeatureStore(arguments.store) as store:
        return errors(loaded.model, loaded.config, list(held_out_batches(store, held)), rebuild)


def held_out_batches(store: FeatureStore, ids: list[str]) -> Iterator[HeldOut]:
    """Stream, place of the first protein in it, and batch."""
    kinds, known = store.kinds(), set(store.ids)
    rows = sorted(store.row_of(name) for name in ids if name in known)
    for stream, modalities in STREAMS.items():
        of_stream = [row for row in rows if kinds[row] == stream]
        for first in range(0, len(of_stream), BATCH):
            yield stream, first, collate(store, of_stream[first : first + BATCH], modalities)


def read_ec_class(arguments: argparse.Namespace, store: FeatureStore) -> Task:
    return read_task(TaskName.EC_CLASS, store, labels=arguments.labels, splits=arguments.splits)


def score(
    arguments: argparse.Namespace, start: Start, store: FeatureStore, task: Task, protocol: Protocol, seed: int
) -> Figures:
    alone = protocol is Protocol.PROBE
    config = FinetuneConfig(
        protocol=protocol,
        fusion_lrs=() if alone else (arguments.fusion_lr,),
        head_lrs=(arguments.head_lr,),
        max_epochs=50 if alone else arguments.tuning_epochs,
    )
    bench = Bench(store, task, config, CPU)
    fit = tune(start, bench, Rates(None if alone else arguments.fusion_lr, arguments.head_lr), seed)
    score_NK, target_NK = predict(fit, bench, task.test), task.test.target_NK
    return {
        f"EC class, {protocol}: Fmax": fmax(score_NK, target_NK).value,
        f"EC class, {protocol}: AUPR": aupr(score_NK, target_NK),
    }


def table(out: Path, seeds: int) -> Iterator[str]:
    columns = {
        **{family: family for family in FAMILIES},
        "untrained asymmetric": "untrained",
        "untrained contrastive": "untrained contrastive",
        "pooled": "encoders' features",
        "position": "position alone",
    }
    figures = {
        name: [json.loads((out / f"{name}-{seed}.json").read_text()) for seed in range(seeds)] for name in columns
    }
    yield f"| {' | '.join(['', *columns.values(), 'shuffled pairs'])} |"
    yield "|---" * (len(columns) + 2) + "|"
    for row in rows():
        cells = [cell([of[row] for of in figures[name] if row in of]) for name in columns]
        # Chance for recall; for CKA the mean over shuffles and over all models and seeds.
        shuffled = [of[f"shuffled/{row}"] for name in columns for of in figures[name] if f"shuffled/{row}" in of]
        yield f"| {' | '.join([row, *cells, cell(shuffled)])} |"


def rows() -> Iterator[str]:
    pairs = [f"{a}-{b}" for a, b in combinations(MODALITIES, 2)]
    yield from (f"{part}-token error, {m}" for part in PARTS for m in MODALITIES)
    yield from (f"debiased CKA, {pair}" for pair in pairs)
    yield from (f"recall@{k}, {pair}" for k in RECALL_AT for pair in pairs)
    yield from (f"effective rank, {m}" for m in MODALITIES)
    yield from (f"EC class, {protocol}: {metric}" for protocol in ("probe", "fusion") for metric in ("Fmax", "AUPR"))


def cell(values: list[float]) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean:.3f} ± {sd:.3f}" if sd >= 0.0005 else f"{mean:.3f}"


if __name__ == "__main__":
    main()
