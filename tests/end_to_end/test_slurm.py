"""The job scripts of the documentation, as far as that can be checked without a cluster."""

import re
import subprocess
from pathlib import Path

import pytest

from amma.train.chosen import keys

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("script", sorted((DOCS / "slurm").iterdir()), ids=lambda path: str(path.name))
def test_a_job_script_is_one_that_bash_can_read(script: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_job_script_for_training_gives_options_that_exist() -> None:
    text = (DOCS / "slurm" / "train.sbatch").read_text(encoding="utf-8")
    (call,) = re.findall(r"pretrain (.*) &\n", text)
    options = re.findall(r"--([a-z-]+)", call)
    assert options
    assert {option.replace("-", "_") for option in options} <= keys().keys()


def test_the_job_script_for_training_gives_torchrun_options_that_it_has() -> None:
    from torch.distributed.run import get_args_parser

    text = (DOCS / "slurm" / "train.sbatch").read_text(encoding="utf-8")
    (call,) = re.findall(r"torchrun \\\n(.*?--no-python)", text, flags=re.DOTALL)
    known = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert set(re.findall(r"--[a-z-]+", call)) <= known
