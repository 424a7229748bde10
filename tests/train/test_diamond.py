import random
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from amma.manifests.errors import InputError
from amma.train.data import diamond
from amma.train.data.diamond import Diamond, find_diamond
from amma.train.data.mmseqs import Mmseqs
from amma.train.data.search_program import Hits

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def random_sequence(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(LETTERS, k=length))


def changed(rng: random.Random, sequence: str, equal: float) -> str:
    places = set(rng.sample(range(len(sequence)), round(len(sequence) * (1 - equal))))
    return "".join(
        rng.choice([other for other in LETTERS if other != letter]) if place in places else letter
        for place, letter in enumerate(sequence)
    )


@pytest.fixture(scope="module")
def real(installed_diamond: Diamond | None) -> Diamond:
    if installed_diamond is None:
        pytest.skip("DIAMOND is not installed")
    return installed_diamond


def table(hits: Hits, queries: int, targets: int) -> np.ndarray:
    best = np.zeros((queries, targets))
    np.maximum.at(best, (hits.query, hits.target), hits.identity)
    return best


def test_identity_is_that_of_the_shorter_sequence_and_strangers_have_none(real: Diamond) -> None:
    rng = random.Random(1)
    founder = random_sequence(rng, 200)
    half = random_sequence(rng, 100) + founder[50:150]
    distant = changed(rng, founder, 0.6)
    found = table(real.search([founder, random_sequence(rng, 200)], [founder, distant, half, founder[:80]]), 2, 4)
    assert found[0] == pytest.approx([1.0, 0.6, 0.5, 1.0], abs=0.05)
    assert not found[1].any()


def test_hits_are_the_same_with_any_number_of_threads_and_in_the_order_of_their_numbers(real: Diamond) -> None:
    rng = random.Random(2)
    founders = [random_sequence(rng, rng.randint(80, 300)) for _ in range(10)]
    targets = [changed(rng, founder, equal) for founder in founders for equal in (0.9, 0.6, 0.4)]
    one, two = (real.search(founders, targets, threads=threads) for threads in (1, 2))
    for field in ("query", "target", "identity"):
        assert np.array_equal(getattr(one, field), getattr(two, field))
    assert len(one.query) >= 25
    assert (np.diff(one.query * 30 + one.target) >= 0).all()


def test_strange_sequences_are_no_error(real: Diamond) -> None:
    """Letters of nucleotides alone, unknown residues alone, none at all, rare amino acids, and very few of them."""
    rng = random.Random(3)
    like_dna = "".join(rng.choices("ACGT", k=120))
    strange = [like_dna, "X" * 50, "", "MK", "MKUOBZJX" * 10]
    found = table(real.search(strange, strange), 5, 5)
    assert found[0, 0] == 1.0
    assert not found[1:4].any()


def test_without_queries_or_targets_nothing_is_run_and_nothing_is_found() -> None:
    nowhere = Diamond("/nowhere/diamond", "0")
    for queries, targets in (([], ["MKV"]), (["MKV"], []), (["MKV"], [""])):
        assert not len(nowhere.search(queries, targets).query)


def fake(folder: Path, body: str) -> Diamond:
    program = folder / "diamond"
    program.write_text(f"#!{sys.executable}\nimport os, sys\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return Diamond(str(program), "fake")


def test_its_table_is_read_whatever_the_order_of_its_rows(tmp_path: Path) -> None:
    rows = "1\\t0\\t50\\t100\\t200\\n0\\t2\\t30\\t90\\t60\\n0\\t0\\t90\\t90\\t90\\n"
    hits = fake(tmp_path, f"open('out.tsv', 'w').write('{rows}')").search(["AAA", "CCC"], ["DDD", "EEE", "FFF"])
    assert hits.query.tolist() == [0, 0, 1]
    assert hits.target.tolist() == [0, 2, 0]
    assert hits.identity.tolist() == [1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('Opening'); print('Error: Invalid character'); sys.exit(1)", "blastp ended with 1; .*Invalid"),
        ("os.kill(os.getpid(), 11)", "blastp ended with -11; it said: nothing"),
        ("", r"did not write the table that was asked for \(.*No such file"),
        ("open('out.tsv', 'w').write('0\\t0\\t3\\n')", "did not write the table.*expected 5 columns"),
        ("open('out.tsv', 'w').write('0\\tid\\t3\\t3\\t3\\n')", "did not write the table.*invalid literal"),
    ],
)
def test_a_program_that_fails_is_one_line_with_its_last_words(body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        fake(tmp_path, body).search(["MKVL"], ["AAAA"])
    assert caught.value.code == "E_DIAMOND"
    assert "--search kmers" in str(caught.value)


def test_a_program_that_is_not_there_is_none_and_one_that_does_not_answer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diamond, "PROGRAM", "diamond")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("diamond") is None
    assert find_diamond() is None
    for body in ("sys.exit(1)", ""):
        fake(tmp_path, body)
        with pytest.raises(InputError, match="does not say its version") as caught:
            find_diamond()
        assert caught.value.code == "E_DIAMOND"
    fake(tmp_path, "print('diamond version 2.1.3')")
    assert find_diamond() == Diamond(str(tmp_path / "diamond"), "2.1.3")
    assert Diamond("", "2.1.3").method == "DIAMOND 2.1.3"
    assert Mmseqs("", "14").method == "MMseqs2 14"
