from pathlib import Path

import numpy as np
import pytest

from amma.evaluate.report.cafa_export import MAX_TERMS, CafaExport, write_cafa
from amma.manifests.errors import InputError, UsageError

TERMS = ("GO:0000002", "GO:0000003", "GO:0000001")
OBO = "format-version: 1.2\n\n" + "\n".join(
    f"[Term]\nid: GO:{number:07}\nname: t{number}\nnamespace: molecular_function\n"
    + ("" if number == 0 else "is_a: GO:0000000 ! root\n")
    for number in range(4)
)


def test_the_file_has_header_lines_by_score_and_end(tmp_path: Path) -> None:
    path = tmp_path / "cafa.txt"
    scores = np.array([[0.5, 0.984, 0.5], [0.009, 0.0, 0.001], [1.0, 0.01, 0.995]])
    written = write_cafa(path, ["P1", "none", "sp|P3|X"], TERMS, scores, author="Some Team", model_name="2")
    assert path.read_text() == (
        "AUTHOR\tSome Team\nMODEL\t2\nKEYWORDS\tmachine learning, sequence properties, protein structure.\n"
        "P1\tGO:0000003\t0.98\nP1\tGO:0000001\t0.50\nP1\tGO:0000002\t0.50\n"
        "sp|P3|X\tGO:0000002\t1.00\nsp|P3|X\tGO:0000001\t0.99\nsp|P3|X\tGO:0000003\t0.01\n"
        "END\n"
    )
    assert written == CafaExport(num_proteins=2, num_lines=6, num_cut=0, rejections=())
    assert [each.name for each in tmp_path.iterdir()] == ["cafa.txt"]


def test_the_cafa_evaluators_parser_reads_what_was_written(tmp_path: Path) -> None:
    parser = pytest.importorskip("cafaeval.parser")
    rng = np.random.default_rng(0)
    ids = [f"P{number}" for number in range(20)]
    scores = rng.random((20, 3)).astype(np.float32)
    (tmp_path / "go.obo").write_text(OBO)
    (tmp_path / "truth.tsv").write_text("".join(f"{id}\tGO:0000001\n" for id in ids))
    write_cafa(tmp_path / "cafa.txt", ids, TERMS, scores, at_least=0.25)
    ontologies = parser.obo_parser(str(tmp_path / "go.obo"))
    truth = parser.gt_parser(str(tmp_path / "truth.tsv"), ontologies)
    read = parser.pred_parser(str(tmp_path / "cafa.txt"), ontologies, truth, "max")["molecular_function"]
    columns = [ontologies["molecular_function"].terms_dict[term]["index"] for term in TERMS]
    expected = np.where(scores >= 0.25, np.round(scores.astype(np.float64), 2), 0.0)
    rows = [truth["molecular_function"].ids[id] for id in ids]
    np.testing.assert_allclose(read.matrix[np.ix_(rows, columns)], expected, rtol=0, atol=1e-12)


def test_a_protein_keeps_its_1500_best_terms_and_the_rest_is_counted(tmp_path: Path) -> None:
    terms = [f"GO:{number:07}" for number in range(MAX_TERMS + 7)]
    scores = np.linspace(0.9, 0.1, len(terms))[None]
    written = write_cafa(tmp_path / "cafa.txt", ["P1"], terms, scores)
    lines = (tmp_path / "cafa.txt").read_text().splitlines()[3:-1]
    assert [line.split("\t")[1] for line in lines] == terms[:MAX_TERMS]
    assert (written.num_lines, written.num_cut) == (MAX_TERMS, 7)


def test_ids_that_the_format_cannot_hold_are_named_and_left_out(tmp_path: Path) -> None:
    ids = ["good", "tab\tGO:0000001", "line\nEND", "two words", "END", "", "nbsp\xa0x", "\ud800", "AUTHOR"]
    written = write_cafa(tmp_path / "cafa.txt", ids, TERMS, np.full((9, 3), 0.5))
    assert [rejection.id for rejection in written.rejections] == ids[1:]
    assert {rejection.code for rejection in written.rejections} == {"E_ID"}
    assert [rejection.position for rejection in written.rejections] == list(range(2, 10))
    lines = (tmp_path / "cafa.txt").read_text().splitlines()
    assert {line.split("\t")[0] for line in lines[3:-1]} == {"good"}
    assert (written.num_proteins, written.num_lines, len(lines)) == (1, 3, 7)


@pytest.mark.parametrize("term", ["GO:1\tx", "two words", "", "a\nEND"])
def test_a_term_that_the_format_cannot_hold_is_refused_and_nothing_is_written(tmp_path: Path, term: str) -> None:
    with pytest.raises(InputError, match="cannot stand in a file"):
        write_cafa(tmp_path / "cafa.txt", ["P1"], [term], np.array([[0.5]]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"author": "two\nlines"}, "author"),
        ({"model_name": " "}, "model name"),
        ({"at_least": 0.001}, "smallest score"),
        ({"at_least": 1.5}, "smallest score"),
    ],
)
def test_a_header_or_bound_that_cannot_be_is_misuse(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_cafa(tmp_path / "cafa.txt", ["P1"], ["GO:1"], np.array([[0.5]]), **settings)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.01])
def test_scores_that_are_no_probabilities_are_refused(tmp_path: Path, bad: float) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        write_cafa(tmp_path / "cafa.txt", ["P1"], ["GO:1"], np.array([[bad]]))


def test_an_earlier_file_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cafa.txt"
    write_cafa(path, ["P1"], ["GO:1"], np.array([[0.5]]))
    before = path.read_text()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("amma.evaluate.report.cafa_export.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_cafa(path, ["P2"], ["GO:1"], np.array([[0.7]]))
    assert path.read_text() == before
