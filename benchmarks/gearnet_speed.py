"""GearNet-Edge at its published size against torchdrug 0.2.1, on the same structures, weights and threads.

torchdrug runs in the environment of `make torchdrug` and is timed inside its process: neither its start nor the way of
the arrays counts. On both sides the graph's construction counts, and the features end in main memory. Weights are
random: speed does not depend on them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rounds import Line

from amma.featurize.encoders.gearnet import GearNetConfig
from amma.featurize.encoders.gearnet_frozen import FrozenGearNet
from amma.featurize.encoders.gearnet_weights import random_gearnet
from amma.featurize.encoders.torchdrug_encoder import script_model
from amma.featurize.encoders.torchdrug_worker import TorchdrugWorker, find_python
from amma.manifests.chains import read_chains
from amma.manifests.errors import WeightsError
from amma.manifests.toy import write_toy

Trace = tuple[str, torch.Tensor]
Run = Callable[[], tuple[float, np.ndarray]]
"""One pass over all proteins: seconds that count, and the features."""

BESIDE = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "real" / "structures"
GOALS = {"fp32": "1.5", "bf16": "4 with AMX"}
CROWD, RADIUS = 32, 10.0
"""Of a residue with more neighbours than that within so many Å, torchdrug keeps others than we do."""


def read_traces(folder: Path, count: int) -> list[Trace]:
    """Letters and Cα positions of `count` chains by a seeded choice, none of them with a crowded residue."""
    paths = sorted(path for path in folder.iterdir() if ".pdb" in path.suffixes or ".cif" in path.suffixes)
    traces: list[Trace] = []
    for place in np.random.default_rng(4).permutation(len(paths)).tolist():
        chain = read_chains(paths[place].read_bytes(), paths[place].name)[0]
        kept = np.isfinite(chain.ca).all(axis=1)
        position = torch.from_numpy(chain.ca[kept])
        if int((torch.cdist(position, position) < RADIUS).sum(1).max()) - 1 <= CROWD:
            traces.append(("".join(np.array(list(chain.letters))[kept]), position))
        if len(traces) == count:
            break
    return traces


def ours(model: FrozenGearNet, batches: list[list[Trace]]) -> Run:
    """Our encoder's graph and network."""

    def run() -> tuple[float, np.ndarray]:
        started = time.perf_counter()
        found = [model(model.graph(batch)).cpu().numpy() for batch in batches]
        return time.perf_counter() - started, np.concatenate(found)

    return run


def torchdrugs(worker: TorchdrugWorker, batches: list[list[Trace]], threads: int) -> Run:
    """torchdrug's, by its own clock."""

    def run() -> tuple[float, np.ndarray]:
        answers = [
            worker.compute(
                "".join(letters for letters, _ in batch),
                torch.cat([position for _, position in batch]).numpy(),
                [len(letters) for letters, _ in batch],
                threads=threads,
            )
            for batch in batches
        ]
        return sum(answer.seconds for answer in answers), np.concatenate([answer.features_ND for answer in answers])

    return run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this half."""
    group = parser.add_argument_group("gearnet")
    group.add_argument(
        "--structures", type=Path, help="folder of PDB or mmCIF files; default real ones if at hand, else toys"
    )
    group.add_argument("--proteins", type=int, default=4)
    group.add_argument(
        "--hidden", type=int, default=512, help="width of each of the 6 layers; default 512, as published"
    )


def measure(arguments: argparse.Namespace) -> tuple[list[Line], list[str]]:
    """Lines of the table, and what is to be said below it."""
    try:
        python = find_python()
    except WeightsError as error:
        return [], [f"GearNet-Edge was not timed: {error}"]
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.structures or (BESIDE if BESIDE.is_dir() else None)
        if source is None:
            write_toy(Path(folder), proteins=60, seed=1)
            source = Path(folder) / "structures"
        traces = read_traces(source, arguments.proteins)
    config = GearNetConfig(hidden_widths=(arguments.hidden,) * 6)
    model = random_gearnet(0, config).requires_grad_(False)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    worker = TorchdrugWorker(python, script_model(config, arguments.device), weights)
    model.to(arguments.device)
    networks = {precision: FrozenGearNet(model, precision) for precision in ("fp32", "bf16")}
    residues = sum(len(letters) for letters, _ in traces)
    lines = []
    for kind, batches in (("one by one", [[trace] for trace in traces]), ("in one batch", [traces])):
        reference = f"torchdrug, fp32, {kind}"
        ways = {reference: torchdrugs(worker, batches, arguments.threads)}
        ways |= {f"ours, {precision}, {kind}": ours(network, batches) for precision, network in networks.items()}
        seconds, numbers = _take_turns(ways, arguments.rounds)
        rms = float(np.sqrt(np.mean(numbers[reference] ** 2)))
        for name in ways:
            precision = name.split(", ")[1]
            apart = float(np.abs(numbers[name] - numbers[reference]).max()) / rms
            lines.append(
                Line(
                    half="gearnet",
                    what=name,
                    seconds=seconds[name],
                    per_second=residues / seconds[name],
                    unit="residues",
                    ratio=seconds[reference] / seconds[name],
                    difference=None if name == reference else apart,
                    goal=GOALS[precision] if name.startswith("ours") else "",
                )
            )
    worker.close()
    kind_of_chains = "toys" if source not in (BESIDE, arguments.structures) else "real chains"
    return lines, [
        f"GearNet-Edge, 6 layers of {arguments.hidden}, random weights; {residues:,} residues of {len(traces)} "
        f"proteins ({kind_of_chains}); graph construction included."
    ]


def _take_turns(ways: dict[str, Run], rounds: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Median seconds and the features of each way; every way has its turn in a round, forwards then backwards."""
    numbers = {name: run()[1] for name, run in ways.items()}  # warms everything up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            seconds[name].append(ways[name]()[0])
    return {name: statistics.median(values) for name, values in seconds.items()}, numbers
