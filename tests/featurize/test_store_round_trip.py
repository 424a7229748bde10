"""What goes into a store comes out of it: by our reader, and by a stock Zarr one."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.opened import OpenShards
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.verify import verify_store
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import AmmaError, StoreError
from amma.manifests.table import MODALITIES, Modality

WIDTHS = {Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6}
SMALL = StoreSettings(shard_rows=64, chunk_rows=8)
Proteins = Callable[..., list[ProteinArrays]]


def write(path: Path, proteins: list[ProteinArrays], chosen: StoreSettings = SMALL) -> None:
    write_store(path, proteins, widths=WIDTHS, settings=chosen, fingerprint={"seq": {"layer": 33}}, random_weights=True)


def assert_same(store: FeatureStore, proteins: list[ProteinArrays]) -> None:
    assert sorted(store.ids) == sorted(protein.id for protein in proteins)
    sequences = store.sequences()
    for protein in proteins:
        row = store.row_of(protein.id)
        assert sequences[row] == protein.sequence
        for modality in MODALITIES:
            encoded = protein.features.get(modality)
            assert store.present(modality)[row] == (encoded is not None)
            assert store.length(modality)[row] == (0 if encoded is None else len(encoded.features))
            if encoded is None:
                with pytest.raises(StoreError, match=f"no {modality} features"):
                    store.read(modality, row)
                continue
            rows = store.read(modality, row)
            np.testing.assert_array_equal(rows.features, encoded.features.astype(store.dtype))
            if modality is Modality.SEQ:
                assert rows.index is None
            else:
                np.testing.assert_array_equal(rows.index, encoded.index)
            if encoded.cls is not None:
                np.testing.assert_array_equal(store.cls(modality, row), encoded.cls.astype(store.dtype))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.tuples(st.integers(1, 16), st.integers(0, 16), st.integers(0, 16)), min_size=1, max_size=12),
    chunk_rows=st.sampled_from([1, 4, 16]),
    dtype=st.sampled_from(["float16", "float32"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_protein_comes_back_whatever_the_lengths(
    memory_folder: Path, lengths: list[tuple[int, int, int]], chunk_rows: int, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    proteins = []
    for number, counts in enumerate(lengths):
        features = {
            modality: Encoded(
                rng.standard_normal((rows, WIDTHS[modality]), dtype=np.float32),
                None if modality is Modality.SEQ else rng.integers(0, 256, rows).astype(np.int32),
                None if modality is Modality.STR else rng.standard_normal(WIDTHS[modality], dtype=np.float32),
            )
            for modality, rows in zip(MODALITIES, counts, strict=True)
            if rows
        }
        proteins.append(ProteinArrays(f"p{number}", "A" * counts[0], features))
    path = memory_folder / f"{len(list(memory_folder.iterdir()))}.zarr"
    write(path, proteins, StoreSettings(shard_rows=16, chunk_rows=chunk_rows, dtype=dtype, seed=seed % 97))
    with FeatureStore(path) as store:
        assert_same(store, proteins)


def test_a_stock_zarr_reader_reads_any_protein_where_start_and_length_say(
    memory_folder: Path, random_proteins: Proteins
) -> None:
    proteins = random_proteins(40)
    write(memory_folder / "s.zarr", proteins)
    group = zarr.open_group(memory_folder / "s.zarr", mode="r")
    store = FeatureStore(memory_folder / "s.zarr")
    assert store.header.num_units > 5
    for modality in MODALITIES:
        np.testing.assert_array_equal(group[f"{modality}/present"][:], store.present(modality))
        for row in np.flatnonzero(store.present(modality)):
            start, length = int(group[f"{modality}/start"][row]), int(group[f"{modality}/length"][row])
            rows = store.read(modality, row)
            np.testing.assert_array_equal(group[f"{modality}/features"][start : start + length], rows.features)
            if modality is Modality.STR:
                np.testing.assert_array_equal(group["str/residue"][start : start + length], rows.index)
            if modality is Modality.FUNC:
                np.testing.assert_array_equal(group["func/field"][start : start + length], rows.index)
            if modality is not Modality.STR:
                np.testing.assert_array_equal(group[f"{modality}/cls"][row], store.cls(modality, row))


def test_rows_that_nobody_owns_read_as_fill_in_stock_zarr(memory_folder: Path, random_proteins: Proteins) -> None:
    write(memory_folder / "s.zarr", random_proteins(20))
    group = zarr.open_group(memory_folder / "s.zarr", mode="r")
    for modality in MODALITIES:
        owned = np.zeros(group[f"{modality}/features"].shape[0], dtype=bool)
        for start, length in zip(group[f"{modality}/start"][:], group[f"{modality}/length"][:], strict=True):
            assert not owned[start : start + length].any()
            owned[start : start + length] = True
        features = group[f"{modality}/features"][:]
        assert np.isnan(features[~owned]).all()
        assert np.isfinite(features[owned]).all()
        if modality is Modality.STR:
            assert (group["str/residue"][:][~owned] == -1).all()
        if modality is Modality.FUNC:
            assert (group["func/field"][:][~owned] == 255).all()


def test_shard_files_are_the_bytes_that_zarr_writes_itself(memory_folder: Path, random_proteins: Proteins) -> None:
    write(memory_folder / "ours.zarr", random_proteins(30))
    ours = zarr.open_group(memory_folder / "ours.zarr", mode="r")
    theirs = zarr.create_group(memory_folder / "theirs.zarr")
    compared = 0
    for name in ("seq/features", "str/features", "func/features", "str/residue", "func/field"):
        source = ours[name]
        copy = theirs.create_array(
            name,
            shape=source.shape,
            dtype=source.dtype,
            chunks=source.chunks,
            shards=source.shards,
            filters=None,
            compressors=None,
            fill_value=source.fill_value,
            config={"write_empty_chunks": False},
        )
        copy[:] = source[:]
        files = [path for path in (memory_folder / "ours.zarr" / name / "c").rglob("*") if path.is_file()]
        for path in files:
            twin = memory_folder / "theirs.zarr" / path.relative_to(memory_folder / "ours.zarr")
            assert path.read_bytes() == twin.read_bytes()
            compared += 1
        twins = [path for path in (memory_folder / "theirs.zarr" / name / "c").rglob("*") if path.is_file()]
        assert len(twins) == len(files)
    assert compared > 20


def test_the_store_is_a_pure_function_of_content_and_settings(
    memory_folder: Path, random_proteins: Proteins, tree: Callable[[Path], dict[str, str]]
) -> None:
    proteins = random_proteins(20)
    for name, chosen in (("a", SMALL), ("b", SMALL), ("c", SMALL.model_copy(update={"seed": 1}))):
        write(memory_folder / name, proteins, chosen)
    assert tree(memory_folder / "a") == tree(memory_folder / "b")
    roots = [FeatureStore(memory_folder / name).root_hash for name in "abc"]
    assert roots[0] == roots[1] != roots[2]


def test_no_unit_exceeds_its_shard_and_units_are_filled(memory_folder: Path, random_proteins: Proteins) -> None:
    write(memory_folder / "s.zarr", random_proteins(60))
    store = FeatureStore(memory_folder / "s.zarr")
    unit = np.stack([store.start(modality) // 64 for modality in MODALITIES])
    assert (unit == unit[0]).all()
    for modality in MODALITIES:
        assert ((store.start(modality) % 64) + store.length(modality) <= 64).all()
    for number in range(store.header.num_units - 1):
        here, following = unit[0] == number, int(np.flatnonzero(unit[0] == number + 1)[0])
        used = {m: int(store.length(m)[here].sum()) + int(store.length(m)[following]) for m in MODALITIES}
        assert max(used.values()) > 64  # the next protein would not have fitted


def test_a_protein_longer_than_a_shard_is_named(memory_folder: Path, random_proteins: Proteins) -> None:
    proteins = random_proteins(5, longest=150, seed=3)
    longest = max(proteins, key=lambda p: max(len(e.features) for e in p.features.values()))
    with pytest.raises(StoreError, match=r"rows, a shard holds 64.*--shard-rows") as caught:
        write(memory_folder / "s.zarr", proteins)
    assert repr(longest.id) in str(caught.value)
    assert not (memory_folder / "s.zarr").exists()


def test_a_value_beyond_float16_names_the_protein_and_the_way_out(
    memory_folder: Path, random_proteins: Proteins
) -> None:
    proteins = random_proteins(5)
    proteins[2].features[Modality.SEQ].features[0, 3] = 70000.0
    with pytest.raises(StoreError, match=r"70000 does not fit float16.*--dtype float32") as caught:
        write(memory_folder / "half.zarr", proteins)
    assert caught.value.code == "E_FP16"
    assert repr(proteins[2].id) in str(caught.value)
    write(memory_folder / "single.zarr", proteins, SMALL.model_copy(update={"dtype": "float32"}))
    with FeatureStore(memory_folder / "single.zarr") as store:
        assert_same(store, proteins)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_never_stored(
    memory_folder: Path, random_proteins: Proteins, bad: float
) -> None:
    proteins = random_proteins(5)
    proteins[1].features[Modality.SEQ].features[0, 0] = bad
    with pytest.raises(AmmaError, match="not finite"):
        write(memory_folder / "s.zarr", proteins)


def test_two_proteins_with_one_id_and_no_protein_at_all_are_refused(
    memory_folder: Path, random_proteins: Proteins
) -> None:
    proteins = random_proteins(4)
    with pytest.raises(AmmaError, match="proteins 2 and 5 have the same id"):
        write(memory_folder / "s.zarr", [*proteins, proteins[1]])
    with pytest.raises(AmmaError, match="no protein in it"):
        write(memory_folder / "s.zarr", [])


def test_unknown_ids_are_a_key_error(memory_folder: Path, random_proteins: Proteins) -> None:
    write(memory_folder / "s.zarr", random_proteins(7))
    store = FeatureStore(memory_folder / "s.zarr")
    assert [store.row_of(id) for id in store.ids] == list(range(7))
    assert store.ids[-1] == list(store.ids)[6]
    assert store.ids[2:5] == list(store.ids)[2:5]
    for unknown in ("", "P", "ZZZ", "\U0010ffff"):
        with pytest.raises(KeyError):
            store.row_of(unknown)


def test_threads_read_the_same_with_fewer_open_files_than_shards(
    memory_folder: Path, random_proteins: Proteins
) -> None:
    proteins = random_proteins(80)
    write(memory_folder / "s.zarr", proteins)
    store = FeatureStore(memory_folder / "s.zarr")
    store._shards = OpenShards(store.path, store.layout, max_open=2)
    wanted = [(m, int(row)) for m in MODALITIES for row in np.flatnonzero(store.present(m))] * 5
    np.random.default_rng(1).shuffle(wanted)
    expected = {protein.id: protein for protein in proteins}

    def equal(item: tuple[str, int]) -> bool:
        modality, row = Modality(item[0]), int(item[1])
        features = expected[store.ids[row]].features[modality].features.astype(np.float16)
        return np.array_equal(store.read(modality, row).features, features)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(equal, wanted))
    assert len(store._shards._open) <= 2
    descriptors = [handle.descriptor for handle in store._shards._open.values()]
    store.close()
    for descriptor in descriptors:
        with pytest.raises(OSError):
            (Path("/proc/self/fd") / str(descriptor)).readlink()


def test_a_modality_that_no_protein_of_a_unit_has_takes_no_file(memory_folder: Path, random_proteins: Proteins) -> None:
    proteins = random_proteins(30)
    for protein in proteins:
        protein.features.pop(Modality.FUNC, None)
    write(memory_folder / "s.zarr", proteins)
    assert not (memory_folder / "s.zarr" / "func/features/c").exists()
    assert verify_store(memory_folder / "s.zarr").findings == []
    group = zarr.open_group(memory_folder / "s.zarr", mode="r")
    assert np.isnan(group["func/features"][:]).all()
    assert not group["func/present"][:].any()
    with FeatureStore(memory_folder / "s.zarr") as store:
        assert_same(store, proteins)
        assert set(store.kinds()) == {"seq", "seq-str"}
