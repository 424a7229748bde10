"""A run keeps the validation split that it was begun with, whatever is installed when it goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amma.manifests.errors import ConfigError, InputError
from amma.train.data import validation_split
from amma.train.data.split_record import SplitRecord
from amma.train.run.checkpoint import describe_checkpoint
from amma.train.run.config import RunConfig
from amma.train.run.folder import read_split
from amma.train.run.loop import pretrain
from amma.train.run.preview import preview

Make = Callable[..., RunConfig]
FIRST = {"validation_fraction": 0.3, "max_steps": 1}
THEN = {"validation_fraction": 0.3, "max_steps": 2}


class Pairs:
    """Stands for MMseqs2: every two sequences next to each other are a cluster."""

    version = "1-pairs"

    def cluster(self, sequences: list[str], *, identity: float, threads: int | None) -> np.ndarray:
        assert identity == 0.3
        return np.arange(len(sequences)) // 2


def install(patch: pytest.MonkeyPatch, program: object | None) -> None:
    patch.setattr(validation_split, "find_mmseqs", lambda: program)


def forbid_clustering(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("clustered again")

    patch.setattr(validation_split, "find_mmseqs", fail)
    patch.setattr(validation_split, "kmer_clusters", fail)


def split_of(run_dir: Path) -> tuple[str, ...]:
    record = read_split(run_dir)
    assert record is not None
    assert record.validation is not None
    return record.validation


@pytest.mark.parametrize(("program", "origin"), [(None, "shared 5-mers"), (Pairs(), "MMseqs2 1-pairs at 30% identity")])
def test_a_run_that_goes_on_clusters_nothing_and_says_what_it_was_begun_with(
    program: object | None, origin: str, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, program)
    pretrain(config(**FIRST), tmp_path / "run")
    before = split_of(tmp_path / "run")
    assert len(before) >= 5
    forbid_clustering(monkeypatch)
    assert preview(config(**THEN), tmp_path / "run")["proteins"]["validation_clusters_from"] == origin
    pretrain(config(**THEN), tmp_path / "run")
    assert split_of(tmp_path / "run") == before
    checkpoint = describe_checkpoint(tmp_path / "run")
    assert checkpoint["step"] == 2
    assert checkpoint["proteins"]["validation_clusters_from"] == origin
    assert json.loads((tmp_path / "run" / "config.json").read_text())["validation_clusters_from"] == origin


def test_the_two_ways_differ_so_that_a_silent_change_would_be_seen(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, program in (("kmers", None), ("mmseqs", Pairs())):
        install(monkeypatch, program)
        pretrain(config(**FIRST), tmp_path / name)
    assert split_of(tmp_path / "kmers") != split_of(tmp_path / "mmseqs")


def test_a_run_of_format_1_0_goes_on_with_shared_kmers_though_mmseqs_is_there_now(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, None)
    pretrain(config(**FIRST), tmp_path / "run")
    before = split_of(tmp_path / "run")
    (tmp_path / "run" / "split.json").unlink()
    settings = tmp_path / "run" / "config.json"
    old = {**json.loads(settings.read_text()), "version": "1.0"}
    del old["validation_clusters_from"]
    settings.write_text(json.dumps(old))
    install(monkeypatch, Pairs())
    pretrain(config(**THEN), tmp_path / "run")
    assert split_of(tmp_path / "run") == before
    assert describe_checkpoint(tmp_path / "run")["step"] == 2


def test_a_split_that_is_lost_is_made_again_the_same_way_or_not_at_all(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, Pairs())
    pretrain(config(**FIRST), tmp_path / "run")
    before = split_of(tmp_path / "run")
    (tmp_path / "run" / "split.json").write_text('{"format": "amma-split"')
    install(monkeypatch, None)
    with pytest.raises(InputError, match=r"made by MMseqs2 1-pairs.*Install MMseqs2"):
        pretrain(config(**THEN), tmp_path / "run")
    install(monkeypatch, Pairs())
    pretrain(config(**THEN), tmp_path / "run")
    assert "The split is made again as it was made" in capsys.readouterr().err
    assert split_of(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("changes", "key"), [({"seed": 1}, "seed"), ({"validation_fraction": 0.2}, "validation_fraction")]
)
def test_a_kept_split_does_not_hide_other_settings(
    changes: dict[str, float], key: str, config: Make, tmp_path: Path
) -> None:
    pretrain(config(**FIRST), tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"{key}: .* before, .* now"):
        pretrain(config(**{**THEN, **changes}), tmp_path / "run")


def test_a_split_without_a_run_beside_it_counts_for_nothing(config: Make, tmp_path: Path) -> None:
    """Left by a run that was killed while it wrote its first files."""
    (tmp_path / "run").mkdir()
    SplitRecord("a dream", ("P1",)).write(tmp_path / "run" / "split.json")
    pretrain(config(**FIRST), tmp_path / "run")
    assert len(split_of(tmp_path / "run")) >= 5


def test_a_split_of_a_newer_version_is_refused(config: Make, tmp_path: Path) -> None:
    pretrain(config(**FIRST), tmp_path / "run")
    path = tmp_path / "run" / "split.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": "2.0"}))
    with pytest.raises(InputError, match=r"version 2\.0") as caught:
        pretrain(config(**THEN), tmp_path / "run")
    assert caught.value.code == "E_VERSION"
