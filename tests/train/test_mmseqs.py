import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from amma.manifests.errors import InputError
from amma.train.data import mmseqs
from amma.train.data.mmseqs import Mmseqs, find_mmseqs

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def relative(rng: random.Random, founder: str, identity: float) -> str:
    return "".join(letter if rng.random() < identity else rng.choice(LETTERS) for letter in founder)


def families(number: int, size: int, identity: float) -> list[str]:
    rng = random.Random(0)
    founders = ["".join(rng.choices(LETTERS, k=rng.randint(120, 250))) for _ in range(number)]
    return [relative(rng, founder, identity) for founder in founders for _ in range(size)]


@pytest.fixture(scope="module")
def real(installed_mmseqs: Mmseqs | None) -> Mmseqs:
    if installed_mmseqs is None:
        pytest.skip("MMseqs2 is not installed")
    return installed_mmseqs


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go in these tests, so that what is left can be seen."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_relatives_at_a_half_are_found_and_nothing_is_left_behind(real: Mmseqs, scratch: Path) -> None:
    sequences = [*families(6, 3, 0.75), "MK", "MKV", "MK"]
    number = real.cluster(sequences, identity=0.3, threads=2)
    assert all(len(set(members)) == 1 for members in number[:18].reshape(6, 3).tolist())
    assert len(set(number[:18].tolist())) == 6
    assert number[18] == number[20] != number[19]
    assert list(scratch.iterdir()) == []


def test_identity_is_that_of_the_shorter_sequence(real: Mmseqs, scratch: Path) -> None:
    rng = random.Random(1)
    founder = "".join(rng.choices(LETTERS, k=200))
    distant = relative(rng, founder, 0.6)
    part = "".join(rng.choices(LETTERS, k=100)) + founder[50:150]
    stranger = "".join(rng.choices(LETTERS, k=200))
    hits = real.search([founder, stranger], [founder, distant, part], threads=1)
    best = np.zeros((2, 3))
    np.maximum.at(best, (hits.query, hits.target), hits.identity)
    equal = sum(a == b for a, b in zip(founder, distant, strict=True)) / 200
    assert best[0, 0] == 1.0
    assert abs(best[0, 1] - equal) < 0.05
    assert abs(best[0, 2] - 0.5) < 0.05
    assert not best[1].any()
    assert list(scratch.iterdir()) == []


def test_without_queries_or_targets_nothing_is_run_and_nothing_is_found() -> None:
    nowhere = Mmseqs("/nowhere/mmseqs", "0")
    assert not len(nowhere.search([], ["MKV"]).query)
    assert not len(nowhere.search(["MKV"], []).identity)


def fake(folder: Path, body: str) -> Mmseqs:
    program = folder / "mmseqs"
    program.write_text(f"#!{sys.executable}\nimport os, sys, time\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return Mmseqs(str(program), "fake")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('reading'); print('Illegal option', file=sys.stderr); sys.exit(3)", "ended with 3; it said: .*Illegal"),
        ("os.kill(os.getpid(), 11)", "ended with -11; it said: nothing"),
        ("", r"did not write the table that was asked for \(.*No such file"),
        ("open('out_cluster.tsv', 'w').write('0 1 2\\n')", "did not write the table.*expected 2 columns"),
        ("open('out_cluster.tsv', 'w').write('one\\ttwo\\n')", "did not write the table.*invalid literal"),
    ],
)
def test_a_program_that_fails_is_one_line_with_its_last_words(
    body: str, message: str, tmp_path: Path, scratch: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        fake(tmp_path, body).cluster(["MKVL", "AAAA"], identity=0.3)
    assert caught.value.code == "E_MMSEQS"
    assert "off the PATH" in str(caught.value)
    assert list(scratch.iterdir()) == []


def test_what_the_program_leaves_out_is_a_cluster_of_its_own(tmp_path: Path) -> None:
    program = fake(tmp_path, "open('out_cluster.tsv', 'w').write('0\\t0\\n0\\t2\\n')")
    assert program.cluster(["AA", "CCCC", "DDD", "AA", "E"], identity=0.3).tolist() == [0, 0, 1, 0, 2]


def test_clusters_do_not_depend_on_the_order_of_the_sequences(tmp_path: Path) -> None:
    program = fake(tmp_path, "open('out_cluster.tsv', 'w').writelines(f'{n - n % 3} {n}\\n' for n in range(12))")
    sequences = families(6, 2, 0.5)
    order = np.random.default_rng(0).permutation(len(sequences))
    number = program.cluster(sequences, identity=0.3)
    assert sorted(np.bincount(number).tolist()) == [3, 3, 3, 3]
    assert np.array_equal(program.cluster([sequences[row] for row in order], identity=0.3), number[order])


def test_no_process_and_no_file_outlives_an_interruption(tmp_path: Path, scratch: Path) -> None:
    body = "open(os.environ['STARTED'], 'w').write(str(os.getpid())); time.sleep(60)"
    program = fake(tmp_path, body)
    script = (
        "import sys; from amma.train.data.mmseqs import Mmseqs; "
        f"Mmseqs({program.path!r}, 'fake').cluster(['MKVL'], identity=0.3)"
    )
    started = tmp_path / "started"
    environment = {**os.environ, "STARTED": str(started), "TMPDIR": str(scratch)}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        stderr=subprocess.DEVNULL,
        # Where tests run in the background, SIGINT is ignored, and so it would be by what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (started.exists() and started.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    assert list(scratch.iterdir()) == []


def test_a_program_that_is_not_there_is_none_and_one_that_does_not_answer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmseqs, "PROGRAM", "mmseqs")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("mmseqs") is None
    assert find_mmseqs() is None
    fake(tmp_path, "sys.exit(1)")
    with pytest.raises(InputError, match="does not say its version"):
        find_mmseqs()
    fake(tmp_path, "print('14-abc')")
    found = find_mmseqs()
    assert found == Mmseqs(str(tmp_path / "mmseqs"), "14-abc")
