from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amma.evaluate.config import SearchTool
from amma.evaluate.controls import identity
from amma.evaluate.controls.identity import Search, identity_of, largest
from amma.evaluate.controls.kmers import nearest_neighbour_scores
from amma.evaluate.controls.nearest import nearest_training, scores_of
from amma.evaluate.function import evaluate_function
from amma.evaluate.subject import open_subject
from amma.evaluate.tasks.task import Task, read_task
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import InputError
from amma.train.data.search_program import Hits, SearchProgram


class AlignsAll(SearchProgram):
    """Every pair of which more than a half is equal, by alignment; counts how often it is asked."""

    name, code, repair = "Aligner", "E_MMSEQS", ""
    asked: list[int]

    def __init__(self) -> None:
        object.__setattr__(self, "path", "")
        object.__setattr__(self, "version", "1")
        object.__setattr__(self, "asked", [])

    def search(self, queries, targets, *, threads=None) -> Hits:
        self.asked.append(len(queries))
        pairs = [(q, t, identity_of(a, b)) for q, a in enumerate(queries) for t, b in enumerate(targets)]
        query, target, equal = zip(*[pair for pair in pairs if pair[2] > 0.5], strict=True)
        return Hits(np.array(query), np.array(target), np.array(equal))

    def _search(self, folder: Path, threads: int | None) -> None:
        raise AssertionError


@pytest.fixture
def task(planted) -> Task:
    with FeatureStore(planted.store) as store:
        return read_task("ec", store, labels=planted.labels, splits=planted.splits)


def test_of_several_hits_the_largest_identity_counts_and_of_equals_the_first() -> None:
    hits = Hits(np.array([1, 1, 1, 3]), np.array([7, 5, 6, 2]), np.array([0.4, 0.9, 0.9, 0.1]))
    identity_N, target_N = largest(4, hits)
    assert identity_N.tolist() == [0, 0.9, 0, 0.1]
    assert target_N.tolist() == [-1, 5, -1, 2]


@pytest.mark.parametrize("share", ["an equal sequence", "nothing"])
def test_test_proteins_are_compared_with_the_training_split_alone(
    planted, share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FeatureStore(planted.store) as store:
        task = read_task("ec", store, labels=planted.labels, splits=planted.splits)
        sequences = store.sequences()
        asked: list[tuple[list[str], list[str]]] = []

        class Found(Search):
            def pairs(self, queries, targets, *, threads=None, advance=lambda _: None) -> Hits:
                asked.append((list(queries), list(targets)))
                if share == "nothing":
                    return Hits(*np.empty((2, 0), dtype=np.int64), np.empty(0))
                return Hits(np.array([2]), np.array([4]), np.array([1.0]))

        nearest = nearest_training(task, store, Found(None))
        assert asked == [(sequences.take(task.test.rows.tolist()), sequences.take(task.train.rows.tolist()))]
    assert "local alignments" in nearest.method
    if share == "nothing":
        assert (nearest.identity_N.tolist(), set(nearest.place_N)) == ([0.0] * len(task.test.ids), {-1})
    else:
        assert (nearest.identity_N[2], nearest.place_N[2]) == (1, 4)
        assert nearest.identity_N.sum() == 1


def test_a_score_is_the_largest_identity_to_a_target_with_the_term() -> None:
    rng = np.random.default_rng(0)
    table_MT = np.where(rng.random((7, 20)) < 0.3, rng.random((7, 20)), 0.0)
    table_MT[3] = 0.0
    target_TK = rng.random((20, 5)) < 0.2
    query, target = np.nonzero(np.concatenate([table_MT, table_MT / 2]))  # each pair twice, once at half
    order = rng.permutation(len(query))
    hits = Hits(query[order] % 7, target[order], np.concatenate([table_MT, table_MT / 2])[query, target][order])
    score_MK = scores_of(hits, 7, target_TK)
    expected_MK = [[max(table_MT[m] * target_TK[:, k]) for k in range(5)] for m in range(7)]
    np.testing.assert_allclose(score_MK, expected_MK, rtol=1e-6)
    assert not score_MK[3].any()
    assert not scores_of(Hits(*(np.empty(0, dtype=kind) for kind in (int, int, float))), 2, target_TK).any()


def test_the_row_of_a_program_is_by_identity_from_one_search_of_all(planted, task: Task) -> None:
    program = AlignsAll()
    with FeatureStore(planted.store) as store:
        found = nearest_training(task, store, Search(program))
        sequences = store.sequences()
        train, valid, test = (sequences.take(split.rows.tolist()) for split in (task.train, task.valid, task.test))
    assert program.asked == [len(valid) + len(test)]
    for asked, score_NK in ((valid, found.valid_VK), (test, found.test_NK)):
        assert score_NK.shape == (len(asked), len(task.terms))
        table = np.array([[identity_of(a, b) for b in train] for a in asked])
        table[table <= 0.5] = 0
        expected = (table[:, :, None] * task.train.target_NK).max(axis=1)
        np.testing.assert_allclose(score_NK, expected, rtol=1e-6)
    np.testing.assert_allclose(found.identity_N, table.max(axis=1))
    assert found.meaning == "identity of the most similar training sequence with the term (Aligner 1); " + (
        "0 without a relative"
    )


def test_without_a_program_the_row_is_by_3mers(planted, task: Task) -> None:
    with FeatureStore(planted.store) as store:
        found = nearest_training(task, store, Search(None))
        sequences = store.sequences()
        train, test = (sequences.take(split.rows.tolist()) for split in (task.train, task.test))
    assert np.array_equal(found.test_NK, nearest_neighbour_scores(train, task.train.target_NK, test))
    assert "shared 3-mers" in found.meaning


def test_the_report_names_what_found_the_nearest(planted) -> None:
    config = planted.config(protocol="probe", max_epochs=1)
    subject = open_subject(config)
    rows = [
        evaluate_function(config, replace(subject, search=search)).report.row("nearest training sequence")
        for search in (Search(None), Search(AlignsAll()))
    ]
    assert "3-mers" in rows[0].meaning
    assert "Aligner 1" in rows[1].meaning
    assert rows[0].fmax != rows[1].fmax


def test_what_is_asked_for_is_taken_or_is_an_error_that_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Search.by(SearchTool.AUTO).program is None  # tests hide them
    assert Search.by(SearchTool.KMERS).program is None
    for tool, code, package in (
        (SearchTool.MMSEQS, "E_MMSEQS", "apt-get install mmseqs2"),
        (SearchTool.DIAMOND, "E_DIAMOND", "apt-get install diamond-aligner"),
    ):
        with pytest.raises(InputError, match=package) as caught:
            Search.by(tool)
        assert caught.value.code == code
    program = AlignsAll()
    monkeypatch.setattr(identity, "find_diamond", lambda: program)
    assert Search.installed().program is program  # MMseqs2 is not there
    first = AlignsAll()
    monkeypatch.setattr(identity, "find_mmseqs", lambda: first)
    assert Search.by(SearchTool.AUTO).program is first
    assert Search.by(SearchTool.DIAMOND).program is program
    assert Search.by(SearchTool.MMSEQS).program is first
    assert Search.by(SearchTool.KMERS).program is None


def read_fasta(path: Path) -> dict[str, str]:
    entries = path.read_text().split(">")[1:]
    return {head.split()[0]: "".join(rest) for head, *rest in (entry.split("\n") for entry in entries)}


def test_on_real_proteins_all_searches_find_the_same_clear_relatives(
    shared: Path, installed_mmseqs: SearchProgram | None, installed_diamond: SearchProgram | None
) -> None:
    programs = [each for each in (installed_mmseqs, installed_diamond) if each is not None]
    if not programs:
        pytest.skip("neither MMseqs2 nor DIAMOND is installed")
    sequences = read_fasta(shared / "data" / "real" / "sequences.fasta")
    families: dict[str, list[str]] = {}
    for line in (shared / "data" / "real" / "clusters.tsv").read_text().splitlines():
        name, family = line.split("\t")[:2]
        if 60 <= len(sequences.get(name, "")) <= 250:
            families.setdefault(family, []).append(sequences[name])
    members = [each for each in families.values() if len(each) > 1]
    queries = [each[0] for each in members[:12]]
    targets = [sequence for each in members[:30] for sequence in each[1:3]]
    aligned = np.array([[identity_of(query, target) for target in targets] for query in queries])
    clear = aligned > 0.5
    assert clear.sum() >= 10
    for search in map(Search, [*programs, None]):
        hits = search.pairs(queries, targets, threads=2)
        found = np.zeros_like(aligned)
        np.maximum.at(found, (hits.query, hits.target), hits.identity)
        np.testing.assert_allclose(found[clear], aligned[clear], atol=0.05, err_msg=search.method)
        assert (found <= 1).all()
        assert (found[~clear] < 0.6).all()
