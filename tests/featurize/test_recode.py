"""int8 stores: how far their numbers may be off, that they are the same to the byte, and who is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from amma.featurize.cli import app
from amma.featurize.recode import recode_store
from amma.featurize.store.affine import Affine
from amma.featurize.store.fingerprint import differences
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.status import status
from amma.featurize.store.unit import checksum
from amma.featurize.store.verify import verify_store
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import CorruptStoreError, StoreError, UsageError
from amma.manifests.table import MODALITIES, Modality

WIDTHS = {Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6}
SETTINGS = StoreSettings(shard_rows=64, chunk_rows=8, seed=3)
Make = Callable[..., list[ProteinArrays]]
Tree = Callable[[Path], dict[str, str]]


def changed(protein: ProteinArrays, modality: Modality, change: Callable[[np.ndarray], None]) -> ProteinArrays:
    encoded = protein.features[modality]
    rows = encoded.features.copy()
    change(rows)
    return replace(protein, features={**protein.features, modality: replace(encoded, features=rows)})


@pytest.fixture
def store(memory_folder: Path, random_proteins: Make) -> Path:
    """One channel holds one value, one has a large mean."""

    def special(rows: np.ndarray) -> None:
        rows[:, 2] = 1.3
        rows[:, 3] = rows[:, 3] * 0.5 + 40

    path = memory_folder / "s.zarr"
    proteins = [changed(protein, Modality.SEQ, special) for protein in random_proteins(60)]
    write_store(path, proteins, widths=WIDTHS, settings=SETTINGS, fingerprint={"seq": "x"}, random_weights=True)
    return path


def recode(store: Path, out: Path, **options: Any) -> Any:
    with FeatureStore(store) as source:
        return recode_store(source, out, **options)


def stacked(store: FeatureStore, modality: Modality) -> np.ndarray:
    rows = [store.read(modality, row).features for row in np.flatnonzero(store.present(modality))]
    return np.concatenate(rows).astype(np.float64)


def test_numbers_are_off_by_what_the_store_says_and_half_a_step_at_most(store: Path, memory_folder: Path) -> None:
    out = memory_folder / "int8.zarr"
    recoded = recode(store, out)
    with FeatureStore(store) as before, FeatureStore(out) as after:
        assert (before.dtype.name, after.dtype.name) == ("float16", "int8")
        assert list(after.ids) == list(before.ids)
        assert list(after.sequences()) == list(before.sequences())
        assert after.kinds() == before.kinds()
        for modality in MODALITIES:
            truth, coded = stacked(before, modality), stacked(after, modality)
            affine = after.affines[modality]
            wrong = np.abs(coded - truth)
            assert (wrong <= affine.scale_D * 0.5 + np.abs(truth).max() * 1e-6).all()
            sigma = truth.std(axis=0)
            measured = np.sqrt((wrong**2).mean(axis=0)) / np.where(sigma > 0, sigma, 1)
            np.testing.assert_allclose(affine.error_D, measured, rtol=1e-4, atol=1e-9)
            assert 0.001 < affine.error_D.max() < 0.02
            assert recoded.error[str(modality)]["worst"] == pytest.approx(affine.error_D.max())
            for row in range(len(before)):
                if before.present(modality)[row] and modality is not Modality.STR:
                    np.testing.assert_array_equal(after.cls(modality, row), before.cls(modality, row))
        constant = np.float16(1.3)
        assert (stacked(after, Modality.SEQ)[:, 2] == constant).all()
        assert after.affines[Modality.SEQ].scale_D[2] == 0
        assert [after.read(Modality.STR, row).index is None for row in np.flatnonzero(after.present(Modality.STR))]
        complete = after.kinds().index("triplet")
        np.testing.assert_array_equal(
            after.read(Modality.FUNC, complete).index, before.read(Modality.FUNC, complete).index
        )


def test_checksums_are_of_the_codes_and_any_zarr_library_reads_them(store: Path, memory_folder: Path) -> None:
    out = memory_folder / "int8.zarr"
    recode(store, out)
    group = zarr.open_group(out, mode="r")
    assert group["str/features"].dtype == np.int8
    assert group["str/features"].fill_value == -128
    with FeatureStore(out) as opened:
        for row in np.flatnonzero(opened.present(Modality.STR)).tolist():
            begin, length = int(group["str/start"][row]), int(group["str/length"][row])
            codes = group["str/features"][begin : begin + length]
            assert checksum(codes, group["str/residue"][begin : begin + length]) == group["str/crc32c"][row]
            numbers = codes.astype(np.float32) * group["str/scale"][:] + group["str/offset"][:]
            np.testing.assert_array_equal(numbers, opened.read(Modality.STR, row).features)
    data = bytearray((out / "str/features/c/0/0").read_bytes())
    data[0] ^= 1
    (out / "str/features/c/0/0").write_bytes(data)
    assert [finding.file for finding in verify_store(out).findings] == ["str/features/c/0/0"]


def test_killed_anywhere_it_ends_in_the_same_bytes_for_any_number_of_threads(
    store: Path, memory_folder: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = memory_folder / "whole.zarr"
    recode(store, whole, threads=1)
    import amma.featurize.recode as module
    from amma.featurize.store import filling

    class Killed(BaseException):
        pass

    def die(*_: Any) -> Any:
        raise Killed

    out = memory_folder / "killed.zarr"
    commit, commits = filling.commit, []

    def dies_later(path: Path, entry: Any) -> None:
        if len(commits) == 5:
            raise Killed
        commits.append(entry)
        commit(path, entry)

    for target, name, fatal in (
        (module, "_write_maps", die),
        (filling, "commit", dies_later),
        (filling, "seal_store", die),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, fatal)
            with pytest.raises(Killed):
                recode(store, out, threads=3)
        assert status(out).units_done == {"_write_maps": 0, "commit": 5}.get(name, status(whole).units)
        with pytest.raises(StoreError, match="not sealed"):
            FeatureStore(out)
    recode(store, out, threads=3)
    assert tree(out) == tree(whole)
    assert recode(store, out).root == FeatureStore(whole).root_hash


def test_commands_know_the_store(store: Path, memory_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = memory_folder / "int8.zarr"
    app(["recode", str(store), str(out), "--int8", "--dry-run"], standalone_mode=False)
    assert "not written" in capsys.readouterr().out
    assert not out.exists()
    app(["recode", str(store), str(out), "--int8", "--json"], standalone_mode=False)
    recoded = json.loads(capsys.readouterr().out)
    reports = []
    for path in (store, out):
        app(["verify", str(path)], standalone_mode=False)
        assert "intact" in capsys.readouterr().out
        app(["status", str(path)], standalone_mode=False)
        assert "sealed, root" in capsys.readouterr().out
        app(["inspect", str(path), "--json"], standalone_mode=False)
        reports.append(json.loads(capsys.readouterr().out)["modalities"])
    for before, after in zip(reports[0].values(), reports[1].values(), strict=True):
        assert before["int8_error"] == {}
        assert after["constant_channels"] == before["constant_channels"]
        for key, value in before["channel_sigma"].items():
            assert after["channel_sigma"][key] == pytest.approx(value, rel=0.01, abs=1e-6)
        assert after["channel_mean"]["max"] == pytest.approx(before["channel_mean"]["max"], abs=0.01)
    assert reports[1]["seq"]["int8_error"]["max"] == pytest.approx(recoded["error"]["seq"]["worst"])
    exported = memory_folder / "npy"
    app(["export", str(out), str(exported), "--format", "npy", "--modality", "seq"], standalone_mode=False)
    with FeatureStore(out) as opened:
        assert opened.ids[0] == "P" + opened.ids[0][1:]
        (first,) = (exported / "seq").glob(f"{opened.ids[0].split('/')[0]}%2F*")
        np.testing.assert_array_equal(np.load(first), opened.read(Modality.SEQ, 0).features)


def test_a_channel_with_an_outlier_is_refused_with_its_figure(memory_folder: Path, random_proteins: Make) -> None:
    def outlier(rows: np.ndarray) -> None:
        rows[0, 4] = 900

    proteins = random_proteins(60)
    proteins[7] = changed(proteins[7], Modality.SEQ, outlier)
    path, out = memory_folder / "s.zarr", memory_folder / "int8.zarr"
    write_store(path, proteins, widths=WIDTHS, settings=SETTINGS, fingerprint={}, random_weights=True)
    # One in about 900 rows: σ is about 30, a step 3.5, so the error about 1 / 30.
    for bound, dry_run in ((0.02, True), (0.02, False)):
        with pytest.raises(StoreError, match=r"seq channel 4 would be off by 0\.03\d+ of its σ.*to 900") as caught:
            recode(path, out, max_error=bound, dry_run=dry_run)
        assert caught.value.code == "E_INT8"
        assert "\n" not in str(caught.value)
        assert not out.exists()
    assert recode(path, out, max_error=0.05).error["seq"]["channel"] == 4


def test_another_source_and_other_uses_are_refused(store: Path, memory_folder: Path, random_proteins: Make) -> None:
    out, other = memory_folder / "int8.zarr", memory_folder / "other.zarr"
    recode(store, out)
    write_store(
        other, random_proteins(60, seed=1), widths=WIDTHS, settings=SETTINGS, fingerprint={}, random_weights=True
    )
    with pytest.raises(StoreError, match=r"would not be those of what is stored|other proteins"):
        recode(other, out)
    with pytest.raises(UsageError, match="int8 already"):
        recode(out, memory_folder / "again.zarr")
    with pytest.raises(StoreError, match="an int8 store is made of a finished one"):
        write_store(
            memory_folder / "direct.zarr",
            random_proteins(3),
            widths=WIDTHS,
            settings=StoreSettings(dtype="int8"),
            fingerprint={},
            random_weights=True,
        )
    with pytest.raises(UsageError, match="--int8"):
        app(["recode", str(store), str(out)], standalone_mode=False)


def test_scales_that_were_changed_are_never_used(store: Path, memory_folder: Path) -> None:
    out = memory_folder / "int8.zarr"
    recode(store, out)
    kept = memory_folder / "kept.zarr"
    shutil.copytree(out, kept)
    for name in ("seq/scale/c/0", "str/offset/c/0", "func/error/c/0"):
        data = bytearray((out / name).read_bytes())
        data[1] ^= 16
        (out / name).write_bytes(data)
        with pytest.raises(CorruptStoreError, match=rf"{name}: not what the seal says"):
            FeatureStore(out)
        (finding,) = verify_store(out).findings
        assert (finding.file, finding.num_hit) == (name, 60)
        (out / name).write_bytes((kept / name).read_bytes()[:-4])
        with pytest.raises(CorruptStoreError):
            FeatureStore(out)
        shutil.copy(kept / name, out / name)
    # A seal is not put on scales that are not those of the plan.
    (out / "seal.json").unlink()
    data = bytearray((out / "seq/scale/c/0").read_bytes())
    data[1] ^= 16
    (out / "seq/scale/c/0").write_bytes(data)
    with pytest.raises(CorruptStoreError, match="scales are not those"):
        FeatureStore(out, partial=True)
    recode(store, out)
    assert verify_store(out).root == verify_store(kept).root


def test_what_is_damaged_is_made_again_from_the_source(
    store: Path, memory_folder: Path, tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    out = memory_folder / "int8.zarr"
    recode(store, out)
    intact = tree(out)
    damaged = ("seq/features/c/0/0", "str/scale/c/0", "func/error/c/0", "index.bin", "units/00000002.safetensors")
    for name in damaged:
        data = bytearray((out / name).read_bytes())
        data[3] ^= 8
        (out / name).write_bytes(data)
    (out / "ledger/00000003.json").unlink()
    (out / "plan.json").unlink()
    broken = tree(out)
    command = ["recode", str(store), str(out), "--int8", "--repair"]
    assert app([*command, "--dry-run"], standalone_mode=False) == 1
    assert tree(out) == broken
    assert not app(command, standalone_mode=False)
    assert tree(out) == intact
    capsys.readouterr()
    app(command, standalone_mode=False)
    assert "nothing to repair" in capsys.readouterr().out


def test_stores_with_the_scales_of_one_are_read_as_one(
    store: Path, memory_folder: Path, random_proteins: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    def special(rows: np.ndarray) -> None:
        rows[:, 2] = 1.3
        rows[:, 3] = rows[:, 3] * 0.5 + 40

    second = memory_folder / "second.zarr"
    proteins = [
        replace(changed(protein, Modality.SEQ, special), id=f"Q{number}")
        for number, protein in enumerate(random_proteins(30, seed=5))
    ]
    write_store(second, proteins, widths=WIDTHS, settings=SETTINGS, fingerprint={"seq": "x"}, random_weights=True)
    first8, apart8, second8 = (memory_folder / name for name in ("first8", "apart8", "second8"))
    recode(store, first8)
    recode(second, apart8)
    app(["recode", str(second), str(second8), "--int8", "--like", str(first8)], standalone_mode=False)
    capsys.readouterr()
    with FeatureStore(first8) as first, FeatureStore(apart8) as apart, FeatureStore(second8) as like:
        assert differences(first.fingerprint, apart.fingerprint)[0].startswith("int8.maps")
        assert differences(first.fingerprint, like.fingerprint) == []
        assert not np.array_equal(like.affines[Modality.STR].error_D, first.affines[Modality.STR].error_D)
        with FeatureStore(second) as source:
            for modality in MODALITIES:
                wrong = stacked(like, modality) - stacked(source, modality)
                assert np.sqrt((wrong**2).mean()) < 0.05
    # What these scales do not reach is cut off, and that is an error that is measured too.
    outlying = memory_folder / "outlying.zarr"
    proteins = [p for p in random_proteins(30, seed=5) if Modality.STR in p.features]
    proteins = [changed(p, Modality.STR, lambda rows: np.multiply(rows, 3, out=rows)) for p in proteins]
    write_store(outlying, proteins, widths=WIDTHS, settings=SETTINGS, fingerprint={"seq": "x"}, random_weights=True)
    with FeatureStore(first8) as first, pytest.raises(StoreError, match="channel") as caught:
        recode(outlying, memory_folder / "outlying8", like=first)
    assert caught.value.code == "E_INT8"
    with FeatureStore(store) as source, pytest.raises(UsageError, match="not an int8 store"):
        recode(second, memory_folder / "no", like=source)


def test_what_is_absent_or_was_rejected_stays_so(memory_folder: Path, random_proteins: Make) -> None:
    path, out = memory_folder / "s.zarr", memory_folder / "int8.zarr"
    proteins = [replace(p, features={Modality.SEQ: p.features[Modality.SEQ]}) for p in random_proteins(9)]
    write_store(path, proteins, widths=WIDTHS, settings=SETTINGS, fingerprint={}, random_weights=True)
    recode(path, out)
    with FeatureStore(out) as opened:
        assert opened.kinds() == ["seq"] * 9
        assert not opened.present(Modality.STR).any()


def test_codes_are_the_nearest_ones_and_ends_are_kept() -> None:
    least, most = np.array([-1.0, 5.0, 0.0]), np.array([1.0, 5.0, 254.0])
    affine = Affine.spanning(least, most)
    rows = np.array([[-1, 5, 0], [1, 5, 254], [0, 5, 126.6]], dtype=np.float32)
    assert affine.codes(rows).tolist() == [[-127, 0, -127], [127, 0, 127], [0, 0, 0]]
    np.testing.assert_allclose(affine.numbers(affine.codes(rows)), [[-1, 5, 0], [1, 5, 254], [0, 5, 127]], rtol=1e-6)
