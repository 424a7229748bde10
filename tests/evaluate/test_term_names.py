from pathlib import Path

import pytest

from amma.evaluate.tasks.ontology import Ontology
from amma.evaluate.tasks.term_names import Origin, TermNames, term_names
from amma.manifests.errors import InputError
from amma.manifests.labels import read_labels

OBO = """ontology: go

[Term]
id: GO:1
name: from the ontology
namespace: molecular_function
alt_id: GO:11

[Term]
id: GO:2
name: second of the ontology
namespace: molecular_function
"""

ANNOTATION = (
    "### GO-terms (molecular_function)\nGO:1\tGO:2\tGO:3\tGO:4\n"
    "### GO-names (molecular_function)\nhead 1\thead 2\thead 3\tGO:4\n"
    "### PDB-chain\tGO-terms (molecular_function)\nA\tGO:1\nB\tGO:4,GO:2\n"
)


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / name for name in ("go.obo", "names.tsv", "annot.tsv")}
    paths["go.obo"].write_text(OBO)
    paths["names.tsv"].write_text("term\tname\tnote\nGO:1\tmine\t\nGO:9\t\tno name\n")
    paths["annot.tsv"].write_text(ANNOTATION)
    return paths


def test_the_first_source_that_knows_a_term_names_it(sources: dict[str, Path]) -> None:
    terms = ("GO:1", "GO:2", "GO:3", "GO:4", "GO:11", "GO:9")
    ontology = Ontology.read(sources["go.obo"])
    named = term_names("go-mf", terms, ontology=ontology, table=sources["names.tsv"], labels_path=sources["annot.tsv"])
    assert named.names == ("mine", "second of the ontology", "head 3", "", "from the ontology", "")
    assert named.origins == (
        Origin.TABLE, Origin.ONTOLOGY, Origin.LABELS, Origin.NONE, Origin.ONTOLOGY, Origin.NONE,
    )  # fmt: skip
    assert named.num_named == 4
    assert named.as_dict().keys() == {"GO:1", "GO:2", "GO:3", "GO:11"}
    assert term_names("go-mf", terms, labels_path=sources["annot.tsv"]).names[:3] == ("head 1", "head 2", "head 3")


def test_a_name_that_repeats_its_id_is_none_as_in_the_published_go_files(shared: Path) -> None:
    path = shared / "data" / "deepfri" / "nrPDB-GO_subset_annot.tsv"
    table = read_labels(path, "go-mf")
    named = term_names("go-mf", table.terms, labels_path=path)
    assert named.names == ("",) * len(table.terms)
    assert named.num_named == 0


def test_an_ec_number_without_a_name_shows_its_class_as_its_class() -> None:
    named = term_names("ec", ("3.4.21.4", "2.6.1.-", "7.-.-.-", "8.1.1.1", "x"))
    assert named.names == ("(class: Hydrolases)", "(class: Transferases)", "Translocases", "", "")
    assert named.origins == (Origin.EC_CLASS, Origin.EC_CLASS, Origin.EC, Origin.NONE, Origin.NONE)
    assert named.num_named == 1


def test_the_seven_classes_have_their_own_names() -> None:
    named = term_names("ec-class", tuple("1234567"))
    assert named == TermNames(
        tuple("1234567"),
        ("Oxidoreductases", "Transferases", "Hydrolases", "Lyases", "Isomerases", "Ligases", "Translocases"),
        (Origin.EC,) * 7,
    )
    assert named.num_named == 7


def test_every_published_ec_number_has_a_class(shared: Path) -> None:
    path = shared / "data" / "deepfri" / "nrPDB-EC_2020.04_annot.tsv"
    for task in ("ec", "ec-class"):
        terms = read_labels(path, task).terms
        named = term_names(task, terms, labels_path=path, ontology=Ontology.of_ec(terms))
        assert all(named.names)


def test_a_go_term_gets_no_class_of_enzymes() -> None:
    assert term_names("go-mf", ("1",)).names == ("",)


def test_hostile_names_of_a_table_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "names.tsv"
    path.write_bytes(b'term\tname\nA\t<img src=x onerror=alert(1)>\nB\t"quoted\nC\t=1+1\xff\xe2\x80\xae\n')
    names = term_names("ec", ("A", "B", "C"), table=path).names
    assert names == ("<img src=x onerror=alert(1)>", '"quoted', "=1+1\ufffd\ufffd")


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("term\tlabel\nA\tx\n", "E_COLUMNS", "no column name"),
        ("term\tname\nA\tx\nB\ty\nA\tz\n", "E_DUP", ":4: another name for 'A'"),
    ],
)
def test_a_table_of_names_that_is_none_is_refused(tmp_path: Path, content: str, code: str, message: str) -> None:
    path = tmp_path / "names.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        term_names("ec", ("A",), table=path)
    assert caught.value.code == code


def test_a_head_with_fewer_names_than_terms_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "annot.tsv"
    path.write_text(ANNOTATION.replace("\thead 3", ""))
    with pytest.raises(InputError, match="4 terms and 3 names") as caught:
        term_names("go-mf", ("GO:1",), labels_path=path)
    assert caught.value.code == "E_COLUMNS"
