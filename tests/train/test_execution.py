import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amma.manifests.errors import UsageError
from amma.train.model.amma import AMMA
from amma.train.model.transformer import Transformer
from amma.train.run import execution
from amma.train.run.config import RunConfig
from amma.train.run.execution import prepare_layers
from amma.train.run.log import read_log
from amma.train.run.loop import pretrain
from amma.train.run.plan import plan

Make = Callable[..., RunConfig]
CPU = torch.device("cpu")
DEEP = {"width": 16, "ffn": 64, "num_fusion_layers": 6, "num_heads": 2, "decoder_width": 16, "decoder_ffn": 64}
HEADS = {"num_decoder_layers": 4, "num_decoder_heads": 2}


def losses(run_dir: Path) -> list[float]:
    return [line["loss"] for line in read_log(run_dir / "log.jsonl") if line["kind"] == "step"]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoints = run_dir / "checkpoints"
    return load_file(checkpoints / (checkpoints / "latest").read_text().strip() / "model.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_computes_layers_anew_is_the_same_run_to_the_bit(
    precision: str, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []
    forward = Transformer.forward

    def watched(self: Transformer, *given: Any) -> torch.Tensor:
        found.append(self.recomputes)
        return forward(self, *given)

    monkeypatch.setattr(Transformer, "forward", watched)
    for name, anew in (("kept", False), ("anew", True)):
        found.clear()
        pretrain(config(max_steps=4, precision=precision, checkpoint_activations=anew), tmp_path / name)
        assert set(found) == {anew}
    assert losses(tmp_path / "kept") == losses(tmp_path / "anew")
    torch.testing.assert_close(weights(tmp_path / "anew"), weights(tmp_path / "kept"), rtol=0, atol=0)


def test_a_plan_knows_that_less_is_kept(config: Make) -> None:
    memory = [
        plan(config(model={**DEEP, **HEADS}, max_steps=2, checkpoint_activations=anew), measure=1)["memory_bytes"]
        for anew in (False, True)
    ]
    assert memory[1]["weights"] == memory[0]["weights"]
    # Of 18 layers the inputs, one eighth or so of what is kept of a layer, and one whole layer; and the heads.
    assert 0.1 < memory[1]["activations"] / memory[0]["activations"] < 0.45


def test_what_cannot_be_compiled_is_said_in_one_line(small: Any, widths: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **options: Any) -> None:
        raise RuntimeError("no C++ compiler was found\nand much more")

    monkeypatch.setattr(execution, "_run_once", broken)
    with pytest.raises(
        UsageError, match=r"--compile: nothing could be compiled for cpu: no C\+\+ compiler was found\. "
    ):
        prepare_layers(AMMA(small, widths), CPU, compiled=True, recomputed=False, bf16=False)


# In a process of its own: the checks that tests put around every function would be compiled with them.
COMPILED = """
import json, sys
from pathlib import Path
import torch
from torch._dynamo.utils import counters
from amma.train.run.config import RunConfig
from amma.train.run.loop import pretrain

torch.set_num_threads(1)
config = RunConfig.parse(json.loads(sys.argv[1]), source="test")
pretrain(config.model_copy(update={"max_steps": 1}), Path(sys.argv[2]))
before = counters["stats"]["unique_graphs"]
pretrain(config, Path(sys.argv[2]))
graphs = counters["stats"]["unique_graphs"]
pretrain(config, Path(sys.argv[3]))
print(json.dumps([before, graphs, counters["stats"]["unique_graphs"], dict(counters["graph_break"])]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_runs_give_the_losses_of_the_others_and_compile_for_no_batch(
    precision: str, config: Make, tmp_path: Path
) -> None:
    """Stopped after a step and gone on with, in one process, it is the run that was not stopped, to the bit."""
    settings: dict[str, Any] = {"max_steps": 21, "precision": precision, "checkpoint_every": 7, "epochs": 3}
    if precision == "bf16":  # one with validation is enough: compiling takes the time
        settings["validation_fraction"] = 0
    pretrain(config(**settings), tmp_path / "eager")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            COMPILED,
            config(**settings, compile=True).model_dump_json(),
            str(tmp_path / "stopped"),
            str(tmp_path / "whole"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    first, second, third, breaks = json.loads(done.stdout.splitlines()[-1])
    assert 0 < first <= second <= first + 8  # validation, without gradients, comes at the end of an epoch
    assert third == second
    assert breaks == {}
    eager, stopped, whole = (losses(tmp_path / name) for name in ("eager", "stopped", "whole"))
    assert stopped == whole
    torch.testing.assert_close(weights(tmp_path / "stopped"), weights(tmp_path / "whole"), rtol=0, atol=0)
    assert len(eager) == 21
    assert whole == pytest.approx(eager, rel=1e-5 if precision == "fp32" else 5e-3)
