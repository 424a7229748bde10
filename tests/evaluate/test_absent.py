import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from amma.evaluate.tasks.absent import Absent, absent
from amma.featurize.cli import app
from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import CorruptStoreError, InputError
from amma.manifests.quarantine import Rejection, write_quarantine
from amma.manifests.table import Modality

FASTA = ">whole\nMKVLAAGIT\n>gap\nMKV-LAA\n>aside\nMKVLWWAGT\n>two|<b>\nMKVLAAGI1\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store made of FASTA: one protein is in it, two were refused when read, one when encoded."""
    folder = tmp_path_factory.mktemp("absent")
    (folder / "in.fasta").write_text(FASTA)
    (folder / "aside.txt").write_text("aside\n")
    args = ["run", folder / "in.fasta", folder / "s.zarr", "--preset", "tiny", "--quarantine", folder / "aside.txt"]
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exit_code == 0, done.output
    return folder / "s.zarr"


def test_each_absent_protein_has_the_reason_of_who_refused_it(store: Path) -> None:
    with FeatureStore(store) as opened:
        found = absent(opened, ["stranger", "aside", "whole", "gap", "aside", "two|<b>"])
    assert [(each.id, each.code) for each in found] == [
        ("stranger", "E_OUTSIDE"),
        ("aside", "E_KILLED"),
        ("gap", "E_GAP"),
        ("two|<b>", "E_ALPHABET"),
    ]
    assert found[0] == Absent("stranger", "E_OUTSIDE", "not in the store's inputs")
    assert "set aside" in found[1].reason


def test_nothing_is_absent_of_a_store_that_has_it_all(store: Path) -> None:
    with FeatureStore(store) as opened:
        assert absent(opened, ["whole"]) == ()
        assert absent(opened, []) == ()


def test_a_store_of_another_origin_takes_the_quarantine_it_is_given(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"text only": Modality.FUNC, "whole": Modality.SEQ}
    proteins = [
        ProteinArrays(id, "MKV", {
            modality: Encoded(
                np.ones((3, 4), np.float32),
                np.zeros(3, np.int32) if modality is Modality.FUNC else None,
                np.ones(4, np.float32),
            )
        })
        for id, modality in arrays.items()
    ]  # fmt: skip
    widths = dict.fromkeys(Modality, 4)
    write_store(tmp_path / "s.zarr", proteins, widths=widths, fingerprint={"f": 1}, random_weights=True)
    given = tmp_path / "m.quarantine.jsonl"
    lines = [
        Rejection("lost", "a.pdb", 1, "E_PARSE", "no atoms", "look"),
        Rejection("other", "b.pdb", 2, "E_PARSE", "no atoms", "look"),
        Rejection("lost", "in.fasta", 3, "E_EMPTY", "no residues", "look"),
        Rejection("lost", "again.fasta", 4, "E_EMPTY", "no residues", "look"),
    ]
    write_quarantine(given, lines)
    with FeatureStore(tmp_path / "s.zarr") as opened:
        found = absent(opened, ["whole", "text only", "lost"], quarantines=[given])
        assert found == (
            Absent("text only", "E_ABSENT", "has neither sequence nor structure features in the store"),
            Absent("lost", "E_PARSE", "no atoms; no residues"),
        )
        assert absent(opened, ["lost"])[0].code == "E_OUTSIDE"
        given.write_text(json.dumps({"id": "lost"}) + "\n")
        with pytest.raises(InputError, match="not a quarantine"):
            absent(opened, ["lost"], quarantines=[given])
        with pytest.raises(InputError, match="no such file"):
            absent(opened, ["lost"], quarantines=[tmp_path / "none.jsonl"])


def test_a_quarantine_that_is_not_as_it_was_sealed_is_no_reason(store: Path) -> None:
    path = store / "quarantine.jsonl"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"E_KILLED", b"E_PARSED"))
    try:
        with FeatureStore(store) as opened, pytest.raises(CorruptStoreError, match=r"quarantine\.jsonl"):
            absent(opened, ["aside"])
    finally:
        path.write_bytes(before)
