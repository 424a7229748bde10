from pathlib import Path

import numpy as np
import pytest

from amma.manifests.build import build_manifest
from amma.manifests.errors import UsageError
from amma.manifests.labels import read_labels, read_splits, read_tsv
from amma.manifests.sites import read_sites
from amma.manifests.structures import load_chain, read_chains
from amma.manifests.table import Manifest
from amma.manifests.toy import draw_proteome, write_toy
from amma.manifests.toy_families import MAX_LENGTH, MIN_LENGTH, backbones_of


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def build(toy: Path, out: Path) -> Manifest:
    report = build_manifest(
        sequences=toy / "sequences.fasta",
        structures=toy / "structures",
        descriptions=toy / "descriptions.tsv",
        out=out,
    )
    assert report.rejections == ()
    assert report.conflicts == ()
    assert report.structures["unmatched"] == report.descriptions["unmatched"] == report.other_sequence == 0
    return Manifest(out)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "made"
    write_toy(folder, proteins=48, seed=3)
    return folder


def test_equal_seeds_give_equal_bytes_and_others_do_not(toy: Path, tmp_path: Path) -> None:
    write_toy(tmp_path / "same", proteins=48, seed=3)
    assert tree(tmp_path / "same") == tree(toy)
    write_toy(tmp_path / "other", proteins=48, seed=4)
    assert (tmp_path / "other" / "sequences.fasta").read_bytes() != (toy / "sequences.fasta").read_bytes()


@pytest.mark.parametrize("proteins", [12, 25, 40])
def test_every_size_has_each_kind_and_nothing_is_quarantined(tmp_path: Path, proteins: int) -> None:
    write_toy(tmp_path / "toy", proteins=proteins, seed=1)
    rows = list(build(tmp_path / "toy", tmp_path / "m.parquet"))
    assert len(rows) == proteins
    assert {row.kind for row in rows} == {"triplet", "seq-str", "seq-func"}
    assert any(row.unresolved for row in rows)
    assert any((row.structure or "").endswith(".cif.gz") for row in rows)
    splits = read_splits(tmp_path / "toy")
    labels = read_labels(tmp_path / "toy" / "ec.tsv", "ec-class")
    for ids in splits.values():
        assert set(ids) & set(labels.ids)


def test_the_manifest_says_what_was_drawn(toy: Path, tmp_path: Path) -> None:
    manifest = build(toy, tmp_path / "m.parquet")
    proteins = draw_proteome(48, 3)
    backbones = backbones_of([protein.residues for protein in proteins])
    for row, protein, backbone in zip(manifest, proteins, backbones, strict=True):
        assert (row.id, row.sequence, row.text) == (protein.id, protein.residues.letters, protein.text)
        assert row.unresolved == (protein.missing if protein.has_structure else ())
        if protein.has_structure:
            chain = load_chain(manifest, row)
            np.testing.assert_allclose(chain.ca, backbone[chain.residue, 1], atol=1e-3)


def test_sites_are_the_motifs_of_ec_numbers_and_say_that_they_are_planted(toy: Path) -> None:
    proteins = {protein.id: protein for protein in draw_proteome(48, 3)}
    sequences = {id: protein.residues.letters for id, protein in proteins.items()}
    table = read_sites(toy / "sites.tsv", {id: len(sequence) for id, sequence in sequences.items()})
    assert table.rejections == ()
    assert set(table.ids) == set(proteins)
    ends = table.residues(["ACT_SITE"])
    for id, residues in table.residues().items():
        motif = "".join(sequences[id][place] for place in residues)
        assert motif == proteins[id].family.enzymes[0].motif
        assert np.all(np.diff(residues) == 1)
        assert ends[id].tolist() == [residues[0], residues[-1]]
    assert "planted" in (toy / "README.txt").read_text()


def test_no_family_is_in_two_splits_but_every_class_is(toy: Path) -> None:
    cluster = {row["id"]: row["cluster"] for _, row in read_tsv(toy / "clusters.tsv", required=("id", "cluster"))}
    labels = read_labels(toy / "ec.tsv", "ec-class")
    class_of = dict(zip(labels.ids, labels.targets.argmax(axis=1), strict=True))
    splits = read_splits(toy)
    families = {split: {cluster[protein] for protein in ids} for split, ids in splits.items()}
    assert not families["train"] & families["test"]
    assert not families["train"] & families["valid"]
    assert not families["valid"] & families["test"]
    for ids in splits.values():
        assert {class_of[protein] for protein in ids if protein in class_of} == set(range(len(labels.terms)))
    assert sum(map(len, splits.values())) == len(cluster) == 48


def test_members_of_a_family_are_alike_and_families_are_not() -> None:
    proteins = draw_proteome(64, 0)

    def identity(a: str, b: str) -> float:
        from difflib import SequenceMatcher

        return SequenceMatcher(None, a, b, autojunk=False).ratio()

    families = {}
    for protein in proteins:
        families.setdefault(protein.family.index, []).append(protein.residues.letters)
    within = [identity(a[0], a[1]) for a in families.values()]
    # The same class, another family: 4 classes take turns.
    between = [identity(families[i][0], families[i + 4][0]) for i in range(12)]
    assert min(within) > max(between)


def test_lengths_are_within_the_limits_and_motifs_survive() -> None:
    for protein in draw_proteome(100, 5):
        assert MIN_LENGTH <= len(protein.residues) <= MAX_LENGTH
        assert len(protein.residues.states) == len(protein.residues.phi_L) == len(protein.residues)
        assert protein.family.enzymes[0].motif in protein.residues.letters


def test_partial_ec_numbers_and_proteins_with_two_numbers_occur(toy: Path) -> None:
    labels = read_labels(toy / "ec.tsv", "ec")
    assert any(term.endswith(".-") for term in labels.terms)
    assert labels.targets.sum(axis=1).max() == 2


def test_it_says_that_it_is_synthetic(toy: Path) -> None:
    import gzip

    assert "SYNTHETIC" in (toy / "README.txt").read_text()
    headers = [line for line in (toy / "sequences.fasta").read_text().splitlines() if line.startswith(">")]
    assert all(header.endswith("synthetic") for header in headers)
    for path in sorted((toy / "structures").iterdir()):
        assert b"SYNTHETIC" in gzip.decompress(path.read_bytes())
        assert read_chains(path.read_bytes(), path.name)[0].name == "A"


def test_an_earlier_toy_is_replaced_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    write_toy(tmp_path / "toy", proteins=14, seed=0)
    write_toy(tmp_path / "toy", proteins=12, seed=1)
    write_toy(tmp_path / "fresh", proteins=12, seed=1)
    assert tree(tmp_path / "toy") == tree(tmp_path / "fresh")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="no earlier toy"):
        write_toy(tmp_path / "mine", proteins=12, seed=0)
    assert tree(tmp_path / "mine") == {"thesis.txt": b"x"}


def test_too_few_proteins_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 12"):
        write_toy(tmp_path / "toy", proteins=11, seed=0)
