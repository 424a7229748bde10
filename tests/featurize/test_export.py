"""Export: what other tools get is what is in the store, under the ids of the user."""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amma.featurize import cli
from amma.featurize.encoders.protocol import Encoded
from amma.featurize.export.names import safe_name
from amma.featurize.export.run import export_store
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import CorruptStoreError, InputError, UsageError
from amma.manifests.table import MODALITIES, Modality

SEQ, STR, FUNC = MODALITIES
IDS = ("P12345", "a/b", "../up", "..", "é ü", "L" * 400, "p%2F", "CON", "a~b")


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    rng = np.random.default_rng(0)
    proteins = []
    for number, id in enumerate(IDS):
        length = number + 2
        features = {
            SEQ: Encoded(rng.standard_normal((length, 5), np.float32), None, rng.standard_normal(5, np.float32))
        }
        if number % 2 == 0:
            residues = np.arange(1, length, dtype=np.int32)
            features[STR] = Encoded(rng.standard_normal((length - 1, 7), np.float32), residues)
        if number % 3 == 0:
            text = rng.standard_normal((3, 4), np.float32)
            features[FUNC] = Encoded(text, np.array([0, 1, 3], np.int32), text[0])
        proteins.append(ProteinArrays(id, "ACDEFGHIKLMN"[:length], features))
    write_store(
        tmp_path / "s.zarr",
        proteins,
        widths={SEQ: 5, STR: 7, FUNC: 4},
        settings=StoreSettings(shard_rows=32),
        fingerprint={},
        random_weights=True,
    )
    return FeatureStore(tmp_path / "s.zarr")


def rows_of(store: FeatureStore, modality: Modality) -> dict[str, Any]:
    return {store.ids[int(row)]: store.read(modality, int(row)) for row in np.flatnonzero(store.present(modality))}


def test_hdf5_has_a_dataset_for_each_id_with_the_rows_of_the_store(store: FeatureStore, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    export_store(store, tmp_path / "out", format="h5")
    for modality, index_file in ((SEQ, None), (STR, "str-residue.h5"), (FUNC, "func-field.h5")):
        expected = rows_of(store, modality)
        with h5py.File(tmp_path / "out" / f"{modality}.h5") as file:
            found = {dataset.attrs["original_id"]: dataset[:] for dataset in file.values()}
            assert all(unquote(name) == file[name].attrs["original_id"] for name in file if "~" not in name)
        assert found.keys() == expected.keys()
        for id, rows in expected.items():
            np.testing.assert_array_equal(found[id], rows.features)
        if index_file is not None:
            with h5py.File(tmp_path / "out" / index_file) as file:
                for dataset in file.values():
                    np.testing.assert_array_equal(dataset[:], expected[dataset.attrs["original_id"]].index)


def test_npy_has_a_file_for_each_id_and_nothing_outside_its_folder(store: FeatureStore, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if "s.zarr" not in path.parts}
    export_store(store, tmp_path / "deep" / "out", format="npy")
    table = pd.read_csv(tmp_path / "deep" / "out" / "ids.tsv", sep="\t", keep_default_na=False)
    assert sorted(table["id"]) == sorted(IDS)
    names = dict(zip(table["id"], table["file"], strict=True))
    for modality, index_name in ((SEQ, None), (STR, "str-residue"), (FUNC, "func-field")):
        expected = rows_of(store, modality)
        for id, rows in expected.items():
            np.testing.assert_array_equal(np.load(tmp_path / "deep" / "out" / modality / names[id]), rows.features)
            if index_name is not None:
                np.testing.assert_array_equal(np.load(tmp_path / "deep" / "out" / index_name / names[id]), rows.index)
        assert len(list((tmp_path / "deep" / "out" / modality).iterdir())) == len(expected)
    outside = {path for path in tmp_path.rglob("*") if "s.zarr" not in path.parts and "out" not in path.parts}
    assert outside - before == {tmp_path / "deep"}


def test_parquet_has_the_mean_of_each_proteins_rows_and_null_where_there_is_none(
    store: FeatureStore, tmp_path: Path
) -> None:
    export_store(store, tmp_path / "out.parquet", format="parquet", pooled=True)
    table = pd.read_parquet(tmp_path / "out.parquet").set_index("id")
    assert sorted(table.index) == sorted(IDS)
    for modality in MODALITIES:
        expected = rows_of(store, modality)
        for id, vector in table[str(modality)].items():
            if id in expected:
                mean = expected[id].features.astype(np.float64).mean(axis=0)
                np.testing.assert_allclose(vector, mean, rtol=0, atol=1e-6)
            else:
                assert vector is None


def test_ids_and_modalities_can_be_chosen(store: FeatureStore, tmp_path: Path) -> None:
    done = export_store(
        store, tmp_path / "out", format="npy", pooled=True, modalities=(SEQ,), ids=["a/b", "P12345", "a/b"]
    )
    assert (done.proteins, done.features) == (2, {"seq": 2})
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["ids.tsv", "seq"]
    assert np.load(tmp_path / "out" / "seq" / "a%2Fb.npy").shape == (5,)
    with pytest.raises(InputError, match="'nobody' is not in"):
        export_store(store, tmp_path / "other", format="npy", ids=["nobody"])
    assert not (tmp_path / "other").exists()


def test_what_exists_is_replaced_only_when_asked_and_only_by_something_whole(
    store: FeatureStore, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        export_store(store, out, format="npy")
    # A flipped bit in the features: the export fails, and what was there stays.
    shard = store.path / "seq" / "features" / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptStoreError):
        export_store(store, out, format="npy", overwrite=True)
    assert out.read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out") and path != out]
    data[3] ^= 1
    shard.write_bytes(data)
    export_store(store, out, format="npy", overwrite=True)
    assert out.is_dir()


def test_a_dry_run_counts_and_writes_nothing(store: FeatureStore, tmp_path: Path) -> None:
    done = export_store(store, tmp_path / "out", format="h5", dry_run=True)
    assert done.features == {"seq": 9, "str": 5, "func": 3}
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="--pool mean"):
        export_store(store, tmp_path / "out", format="parquet", dry_run=True)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True))
def test_names_are_plain_files_and_differ_where_ids_differ(ids: list[str]) -> None:
    names = [safe_name(id) for id in ids]
    assert len(set(names)) == len(ids)
    for name in names:
        assert name not in (".", "..")
        assert "/" not in name
        assert "\0" not in name
        assert len(name.encode()) <= 200


def test_the_command_says_what_it_wrote(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["amma-featurize", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    code, out, _ = run("export", store.path, tmp_path / "v.parquet", "--format", "parquet", "--pool", "mean", "--json")
    assert code == 0
    assert json.loads(out)["features"] == {"seq": 9, "str": 5, "func": 3}
    code, _, err = run("export", store.path, tmp_path / "v.parquet", "--format", "parquet", "--pool", "mean")
    assert code == 2
    assert err.count("\n") == 1
