import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from amma.evaluate.tasks.ontology import EC_CLASSES, EC_ROOT, Ontology
from amma.manifests.errors import InputError

OBO = r"""format-version: 1.2
data-version: releases/2026-01-01
ontology: go

[Term]
id: GO:1
name: molecular_function
namespace: molecular_function

[Term]
id: GO:2
name: binding {x="y"} ! a comment
namespace: molecular_function
alt_id: GO:22
alt_id: GO:99
is_a: GO:1 ! molecular_function

[Term]
id: GO:3
name: 1\,3-beta \{odd\}
namespace: molecular_function
alt_id: GO:99
is_a: GO:1
relationship: part_of GO:2 ! binding
relationship: regulates GO:4
relationship: part_of GO:7 ! of another namespace

[Term]
id: GO:4
name: ion binding
namespace: molecular_function
is_a: GO:3
is_a: GO:2

[Term]
id: GO:5
name: obsolete one
namespace: molecular_function
is_obsolete: true
replaced_by: GO:22

[Term]
id: GO:6
name: obsolete another
namespace: molecular_function
is_obsolete: true
consider: GO:3
consider: GO:4

[Term]
id: GO:8
name: obsolete third
namespace: molecular_function
is_obsolete: true
consider: GO:7

[Term]
id: GO:7
name: biological_process
namespace: biological_process

[Typedef]
id: part_of
name: part of
"""


@pytest.fixture
def ontology(tmp_path: Path) -> Ontology:
    path = tmp_path / "go.obo"
    path.write_text(OBO)
    return Ontology.read(path)


def test_parents_are_those_of_is_a_and_part_of_in_the_same_namespace(ontology: Ontology) -> None:
    assert ontology.namespaces == ("biological_process", "molecular_function")
    assert ontology.parents == {
        "GO:1": (),
        "GO:2": ("GO:1",),
        "GO:3": ("GO:1", "GO:2"),
        "GO:4": ("GO:2", "GO:3"),
        "GO:7": (),
    }
    assert ontology.ancestors("GO:4") == {"GO:1", "GO:2", "GO:3"}


def test_relations_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "go.obo").write_text(OBO)
    assert Ontology.read(tmp_path / "go.obo", relations=("is_a",)).parents["GO:3"] == ("GO:1",)


def test_a_closure_holds_every_ancestor_after_its_parents_in_any_order_of_asking(ontology: Ontology) -> None:
    order = ontology.closure(["GO:4", "GO:2"])
    assert set(order) == {"GO:1", "GO:2", "GO:3", "GO:4"}
    assert all(order.index(parent) < order.index(term) for term in order for parent in ontology.parents[term])
    assert ontology.closure(["GO:2", "GO:4"]) == order


def test_the_file_is_pinned_by_version_and_hash_and_gzip_reads_the_same(ontology: Ontology, tmp_path: Path) -> None:
    packed = tmp_path / "go.obo.gz"
    packed.write_bytes(gzip.compress(OBO.encode()))
    again = Ontology.read(packed)
    assert ontology.version == again.version == "releases/2026-01-01"
    assert ontology.sha256 == hashlib.sha256(OBO.encode()).hexdigest()
    assert again.sha256 == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert again.parents == ontology.parents
    assert again.names == ontology.names


def test_alternative_and_obsolete_ids_are_mapped_where_one_term_is_meant(ontology: Ontology) -> None:
    asked = ["GO:4", "GO:22", "GO:99", "GO:5", "GO:6", "GO:8", "GO:404"]
    mapped = ontology.map_terms(asked)
    assert mapped.found == {"GO:4": "GO:4", "GO:22": "GO:2", "GO:5": "GO:2", "GO:8": "GO:7"}
    assert mapped.how == {"GO:4": "id", "GO:22": "alt_id", "GO:5": "replaced_by", "GO:8": "consider"}
    assert mapped.unmatched == ("GO:99", "GO:6", "GO:404")  # two terms claim 99, two are to be considered for 6
    inside = ontology.map_terms(asked, namespace="molecular_function")
    assert inside.unmatched == ("GO:99", "GO:6", "GO:8", "GO:404")


def test_names_are_found_under_every_id_and_are_plain_text(ontology: Ontology) -> None:
    assert ontology.name_of("GO:2") == ontology.name_of("GO:22") == "binding"
    assert ontology.name_of("GO:3") == "1,3-beta {odd}"
    assert ontology.name_of("GO:5") == "obsolete one"
    assert ontology.name_of("GO:404") == ""


def test_hostile_names_stay_one_line_of_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.obo"
    hostile = "<script>alert(1)</script> =cmd|x \u202eright\u2066 nul\x00 \xa0\ttab \\n"
    head = b"ontology: x\n\n[Term]\nid: X:1\nname: "
    path.write_bytes(head + hostile.encode() + b"\xff\nnamespace: n\n")
    name = Ontology.read(path).name_of("X:1")
    assert name.startswith("<script>alert(1)</script> =cmd|x \ufffdright\ufffd nul\ufffd")
    assert name.isprintable()
    assert name.endswith("\ufffd")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("GO:1\tbinding\n", "no \\[Term\\]"),
        (">P1\nMKV\n", "not an OBO file"),
        ("", "no \\[Term\\]"),
        ("format-version: 1.2\n", "no \\[Term\\]"),
        ("ontology: x\n\n[Term]\nname: no id\n", "not an OBO file"),
        ("ontology: x\n\n[Term]\nid: X:1\nname: a\nrelationship: part_of\n", "not an OBO file"),
        ("ontology: x\n\n[Term]\nid: X:1\nname: a\nis_a: X:2 ! gone\n", "parent 'X:2' of 'X:1' is not in the file"),
        (
            "ontology: x\n\n[Term]\nid: X:1\nname: a\nis_a: X:2\n\n[Term]\nid: X:2\nname: b\nis_a: X:1\n",
            "their own ancestors: X:[12] → X:[12]",
        ),
    ],
)
def test_what_is_no_ontology_is_refused_with_the_reason(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "file.obo"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        Ontology.read(path)
    assert caught.value.code == "E_OBO"
    assert str(path) in str(caught.value)


def test_a_file_that_is_missing_or_damaged_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Ontology.read(tmp_path / "none.obo")
    (tmp_path / "cut.obo.gz").write_bytes(gzip.compress(OBO.encode())[:-20])
    with pytest.raises(InputError) as caught:
        Ontology.read(tmp_path / "cut.obo.gz")
    assert caught.value.code == "E_GZIP"


def test_the_digits_of_ec_numbers_are_a_hierarchy(tmp_path: Path) -> None:
    ontology = Ontology.of_ec(["3.4.21.4", "3.4", "2.6.1.-", "1", "1.1.1.n2", "GO:1", "3.-.1.1", "x.1.1.1"])
    assert ontology.ancestors("3.4.21.4") == {"3.4.21.-", "3.4.-.-", "3.-.-.-", EC_ROOT}
    mapped = ontology.map_terms(["3.4.21.4", "3.4", "2.6.1.-", "1", "1.1.1.n2", "GO:1", "3.-.1.1", "x.1.1.1"])
    assert mapped.found == {
        "3.4.21.4": "3.4.21.4",
        "3.4": "3.4.-.-",
        "2.6.1.-": "2.6.1.-",
        "1": "1.-.-.-",
        "1.1.1.n2": "1.1.1.n2",
    }
    assert mapped.unmatched == ("GO:1", "3.-.1.1", "x.1.1.1")
    assert ontology.name_of("1") == ontology.name_of("1.-.-.-") == EC_CLASSES["1"]
    assert ontology.parents[EC_ROOT] == ()


def test_commands_and_the_ontology_module_import_no_parser_before_a_file_is_read() -> None:
    script = """
import sys
import amma.manifests.cli, amma.featurize.cli, amma.train.cli, amma.evaluate.cli
import amma.manifests.deepfri, amma.manifests.labels, amma.evaluate.config, amma.evaluate.tasks.ontology
import amma.evaluate.tasks.term_names
print([name for name in ("obonet", "networkx", "cafaeval", "torch", "pandas") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/", check=False)
    assert done.stdout.strip() == "[]", done.stderr
