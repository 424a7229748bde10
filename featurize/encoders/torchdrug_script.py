"""GearNet by torchdrug 0.2.1 itself: structures in, `.npz` out. Run by another environment's Python, never imported.

torchdrug replaces `torch.nn.Module` when it is imported, and compiles C++ before its first forward pass; so it lives in
an environment of its own (`make torchdrug`). This file needs nothing but what is installed there, and Python 3.9:

    python -I torchdrug_script.py --versions                      what is installed, as JSON
    python -I torchdrug_script.py --prepare                       compile torchdrug's extension, try a small protein
    python -I torchdrug_script.py MODEL.json IN.npz OUT.npz       features of some chains
    python -I torchdrug_script.py MODEL.json                      stay, and answer one JSON request a line of stdin

`-I` keeps this folder off the module path: torchdrug's `import esm` means fair-esm, not the file beside this one.

MODEL.json: `weights` (.npz of named arrays, or a .pth with torchdrug's state), `hidden_dims`, `num_angle_bin` (null for
GearNet without edge layers), `sequential_distance`, `radius`, `max_neighbors`, `num_nearest`, `min_sequence_distance`,
`device`. IN.npz: `length` of each chain, `letters` (one byte a residue) and `ca` (N, 3; Å) of all chains. OUT.npz:
`features` (N, D) and, on request, `edges` (E, 3: in, out, relation; nodes counted over all chains).
A request: {"in": path, "out": path, "edges": bool, "threads": int}; its answer: {"ok": true, "seconds": s}, where
reading and writing files do not count, or {"ok": false, "error": text, "memory": bool}.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

PACKAGES = ("torchdrug", "torch", "torch-scatter", "torch-cluster")


def versions() -> dict[str, Any]:
    """Version of each package of `PACKAGES`, None where it is not installed; nothing is imported."""
    from importlib import metadata

    found: dict[str, Any] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def load_extension() -> None:
    """Import torchdrug and load its C++ extension, compiling it if it is not there yet.

    torch waits for ever for the lock file of a build that was killed. The kernel forgets our own lock with its owner:
    whoever holds it knows that a lock file of torch's is a leftover.
    """
    import fcntl

    # ninja lies beside the interpreter, which need not be on the path.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    folder = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions")))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "amma.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for leftover in folder.glob("torch_ext*/lock"):
            leftover.unlink()
        # Not before: importing torchdrug may load the extension already, and wait for that lock.
        from torchdrug.utils import torch as torchdrug_torch

        torchdrug_torch.torch_ext.module  # noqa: B018  loads it


class Gear:
    """A GearNet with its graph construction, in evaluation mode."""

    def __init__(self, config: dict[str, Any]) -> None:
        load_extension()

        import torch
        from torchdrug import layers, models
        from torchdrug.layers import geometry

        self.device = torch.device(config["device"])
        minimum = config["min_sequence_distance"]
        self.construction = layers.GraphConstruction(
            node_layers=[geometry.AlphaCarbonNode()],
            edge_layers=[
                geometry.SequentialEdge(max_distance=config["sequential_distance"]),
                geometry.SpatialEdge(
                    radius=config["radius"], min_distance=minimum, max_num_neighbors=config["max_neighbors"]
                ),
                geometry.KNNEdge(k=config["num_nearest"], min_distance=minimum),
            ],
            edge_feature="gearnet",
        )
        num_relation = 2 * config["sequential_distance"] + 3
        self.model = models.GearNet(
            input_dim=21,
            hidden_dims=config["hidden_dims"],
            num_relation=num_relation,
            edge_input_dim=2 * 20 + num_relation + 11 + 1,
            num_angle_bin=config["num_angle_bin"],
            batch_norm=True,
            concat_hidden=True,
            short_cut=True,
            readout="sum",
        )
        if config["weights"] is not None:
            self.model.load_state_dict(read_weights(config["weights"]), strict=True)
        self.model.eval().to(self.device)

    def __call__(self, letters: str, ca: Any, length: Sequence[int]) -> tuple[Any, Any]:
        """The graph and its node features."""
        import torch
        from torchdrug import data

        proteins, start = [], 0
        for count in length:
            chain = slice(start, start + count)
            proteins.append(make_protein(letters[chain], ca[chain]))
            start += count
        with torch.no_grad():
            graph = self.construction(data.Protein.pack(proteins).to(self.device))
            graph.view = "residue"
            return graph, self.model(graph, graph.node_feature.float())["node_feature"]


def make_protein(letters: str, ca: Any) -> Any:
    """A `data.Protein` of Cα atoms alone, as torchdrug would read it from a file of such atoms."""
    import torch
    from torchdrug import data

    count = len(letters)
    place = [data.Protein.residue_symbol2id.get(letter) for letter in letters]
    feature = torch.zeros(count, 21)
    feature[torch.arange(count), torch.tensor([20 if index is None else index for index in place])] = 1
    protein = data.Protein(
        torch.zeros(0, 3, dtype=torch.long),
        atom_type=torch.full((count,), 6),
        bond_type=torch.zeros(0, dtype=torch.long),
        num_node=count,
        num_relation=1,
        # torchdrug calls an unknown residue glycine, except in its feature.
        residue_type=torch.tensor([index or 0 for index in place]),
        atom_name=torch.full((count,), data.Protein.atom_name2id["CA"]),
        atom2residue=torch.arange(count),
        residue_feature=feature,
        residue_number=torch.arange(count),
        view="residue",
    )
    with protein.atom():
        protein.node_position = torch.as_tensor(ca, dtype=torch.float)
    return protein


def read_weights(path: str) -> Any:
    """The state of a model, read as data."""
    import numpy as np
    import torch

    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return torch.load(path, map_location="cpu", weights_only=True)


def answer(gear: Gear, request: dict[str, Any]) -> float:
    """Compute one request; gives the seconds that graph and model took."""
    import numpy as np
    import torch

    if request.get("threads"):
        torch.set_num_threads(request["threads"])
    with np.load(request["in"], allow_pickle=False) as arrays:
        letters, ca, length = arrays["letters"].tobytes().decode("latin-1"), arrays["ca"], arrays["length"].tolist()
    began = time.perf_counter()
    graph, features = gear(letters, ca, length)
    features = features.cpu()
    seconds = time.perf_counter() - began
    result = {"features": features.numpy()}
    if request.get("edges"):
        result["edges"] = graph.edge_list.cpu().numpy()
    np.savez(request["out"], **result)
    return seconds


def serve(gear: Gear, requests: Iterable[str], answers: TextIO) -> None:
    """Answer requests until there are no more; what goes wrong in one is said in its answer."""
    answers.write(json.dumps({"ready": True, **versions()}) + "\n")
    answers.flush()
    for line in requests:
        try:
            reply: dict[str, Any] = {"ok": True, "seconds": answer(gear, json.loads(line))}
        except Exception as error:
            words = str(error)
            memory = isinstance(error, MemoryError) or "out of memory" in words or "DefaultCPUAllocator" in words
            first = (words.splitlines() or [""])[0][:300]
            reply = {"ok": False, "error": f"{type(error).__name__}: {first}", "memory": memory}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def prepare() -> None:
    """Compile the extension and send a small protein through a small model."""
    config: dict[str, Any] = {"hidden_dims": [4, 4], "num_angle_bin": 8, "sequential_distance": 2, "radius": 10.0}
    config.update(max_neighbors=32, num_nearest=10, min_sequence_distance=5, device="cpu", weights=None)
    ca = [[3.8 * (index % 4), 3.8 * (index // 4), 0.1 * index] for index in range(16)]
    _, features = Gear(config)("ACDEFGHIKLMNPQRS", ca, [16])
    if tuple(features.shape) != (16, 8) or not bool(features.isfinite().all()):
        raise SystemExit("torchdrug gave no sensible features for a small protein")


def main(arguments: list[str]) -> None:
    """See the head of this file."""
    # torchdrug and its compiler print as they like: nothing of that may get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if arguments == ["--versions"]:
        answers.write(json.dumps(versions()) + "\n")
        answers.flush()
    elif arguments == ["--prepare"]:
        prepare()
    elif len(arguments) in (1, 3):
        gear = Gear(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
        if len(arguments) == 1:
            serve(gear, sys.stdin, answers)
        else:
            answer(gear, {"in": arguments[1], "out": arguments[2], "edges": True})
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
