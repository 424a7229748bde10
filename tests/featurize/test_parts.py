"""Parts of a store filled apart, in any order, give the bytes of one run; nobody seals or writes over another."""

import itertools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amma.featurize import cli
from amma.featurize.encoders import presets
from amma.featurize.replay import ReplayOrigin
from amma.featurize.run import featurize, featurize_part
from amma.featurize.store.ledger import committed_units
from amma.featurize.store.parts import PARTS_FOLDER, Part, beginning, claim, end_parts
from amma.featurize.store.repair import repair_store
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.verify import verify_store
from amma.featurize.workers.part import seal_parts
from amma.manifests.errors import FingerprintError, InputError, StoreError, UsageError
from amma.manifests.quarantine import read_quarantine
from amma.manifests.table import Manifest, Modality

SMALL = StoreSettings(shard_rows=64, chunk_rows=8, token_budget=60, threads=1)
WriteProteins = Callable[..., Manifest]
Encoders = Callable[[], Any]
Tree = Callable[[Path], dict[str, str]]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_parts_and_a_seal_give_the_bytes_of_one_run(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree, count: int
) -> None:
    manifest = write_proteins(memory_folder)
    whole = featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    store = memory_folder / "s.zarr"
    outcomes = [
        featurize_part(manifest, store, fake_encoders(), Part(number, count), SMALL)
        for number in reversed(range(count))
    ]
    assert sum(outcome.num_written for outcome in outcomes) == whole.header.num_units
    assert "all" in outcomes[-1].lines(store)[-1]
    assert not (store / "seal.json").exists()
    assert seal_parts(store).root == whole.root
    assert tree(store) == tree(memory_folder / "whole.zarr")
    assert seal_parts(store).was_sealed
    assert featurize_part(manifest, store, fake_encoders(), Part(0, count), SMALL).sealed
    assert verify_store(store).findings == []


def test_shares_are_all_units_once() -> None:
    for total, count in itertools.product((0, 1, 7, 64), (1, 2, 7, 9)):
        shares = [list(Part(number, count).units(total)) for number in range(count)]
        assert list(itertools.chain.from_iterable(shares)) == list(range(total))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_parts_that_begin_together_make_one_plan(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree
) -> None:
    manifest = write_proteins(memory_folder)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    store = memory_folder / "s.zarr"
    failed: list[BaseException] = []
    together = threading.Barrier(4)

    def fill(number: int) -> None:
        try:
            together.wait()
            featurize_part(manifest, store, fake_encoders(), Part(number, 4), SMALL)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    seal_parts(store)
    assert tree(store) == tree(memory_folder / "whole.zarr")


def test_a_seal_names_the_units_that_are_missing(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    outcome = featurize_part(manifest, store, fake_encoders(), Part(1, 3), SMALL)
    units = outcome.header.num_units
    there = committed_units(store)
    assert there == list(Part(1, 3).units(units))
    with pytest.raises(
        StoreError, match=rf"units are missing: 0–{there[0] - 1}, {there[-1] + 1}–{units - 1}\."
    ) as found:
        seal_parts(store)
    assert found.value.code == "E_UNSEALED"
    assert not (store / "seal.json").exists()
    with pytest.raises(StoreError, match="not a feature store"):
        seal_parts(memory_folder)


def test_a_part_that_was_killed_goes_on_and_leaves_others_alone(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree
) -> None:
    manifest = write_proteins(memory_folder)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    store = memory_folder / "s.zarr"
    first, last = Part(0, 2), Part(1, 2)
    encoders = fake_encoders()
    encode = encoders[Modality.FUNC].encode

    def die(batch: Any) -> Any:
        if len(committed_units(store)) == 1:
            raise KeyboardInterrupt
        return encode(batch)

    encoders[Modality.FUNC].encode = die
    with pytest.raises(KeyboardInterrupt):
        featurize_part(manifest, store, encoders, first, SMALL)
    assert len(committed_units(store)) == 2  # the second was being written while the third was encoded
    # What dying parts leave: one of its own, and one of another part, which may be being written at this moment.
    own, other = store / "seq/features/c/2/0.tmp", store / f"seq/features/c/{last.units(8).start + 2}/0.tmp"
    for path in (own, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    outcome = featurize_part(manifest, store, fake_encoders(), first, SMALL)
    assert outcome.num_written == outcome.units - 2
    assert not own.exists()
    assert other.exists()
    featurize_part(manifest, store, fake_encoders(), last, SMALL)
    seal_parts(store)
    assert tree(store) == tree(memory_folder / "whole.zarr")


def test_whole_runs_seals_and_parts_exclude_each_other_but_parts_do_not(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    encoders = fake_encoders()
    encode = encoders[Modality.SEQ].encode
    refused: list[str] = []

    def meanwhile(batch: Any) -> Any:
        encoders[Modality.SEQ].encode = encode
        others: list[Callable[[], object]] = [
            lambda: featurize(manifest, store, fake_encoders(), SMALL),
            lambda: seal_parts(store),
            lambda: featurize_part(manifest, store, fake_encoders(), Part(0, 2), SMALL),
            lambda: featurize_part(manifest, store, fake_encoders(), Part(2, 3), SMALL),
        ]
        for other in others:
            with pytest.raises(StoreError, match="in use by process") as locked:
                other()
            refused.append(locked.value.code)
        featurize_part(manifest, store, fake_encoders(), Part(1, 2), SMALL)
        return encode(batch)

    encoders[Modality.SEQ].encode = meanwhile
    featurize_part(manifest, store, encoders, Part(0, 2), SMALL)
    assert refused == ["E_LOCKED"] * 4
    # All units are there; a whole run finds them and seals.
    outcome = featurize(manifest, store, fake_encoders(), SMALL)
    assert outcome.num_written == 0
    assert not (store / PARTS_FOLDER).exists()
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    assert tree(store) == tree(memory_folder / "whole.zarr")


def test_a_part_waits_for_no_whole_run(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    encoders = fake_encoders()
    encode = encoders[Modality.SEQ].encode

    def meanwhile(batch: Any) -> Any:
        encoders[Modality.SEQ].encode = encode
        with pytest.raises(StoreError, match="in use by process"):
            featurize_part(manifest, store, fake_encoders(), Part(0, 2), SMALL)
        return encode(batch)

    encoders[Modality.SEQ].encode = meanwhile
    assert not featurize(manifest, store, encoders, SMALL).was_sealed
    assert verify_store(store).findings == []


def test_what_a_dead_part_left_is_removed_by_whoever_works_on_the_whole(memory_folder: Path) -> None:
    with beginning(memory_folder):
        claim(memory_folder, Part(3, 7))
    left = memory_folder / Part(3, 7).folder / "attempts" / "00000001.ab" / "seq"
    left.mkdir(parents=True)
    (left / "0").write_bytes(b"half")
    end_parts(memory_folder)
    assert list(memory_folder.iterdir()) == []


def test_a_folder_of_parts_that_leads_elsewhere_is_refused(memory_folder: Path) -> None:
    (memory_folder / "elsewhere" / "whole").mkdir(parents=True)
    (memory_folder / "store").mkdir()
    (memory_folder / "store" / PARTS_FOLDER).symlink_to(memory_folder / "elsewhere")
    with pytest.raises(StoreError, match="symbolic link"):
        end_parts(memory_folder / "store")
    assert (memory_folder / "elsewhere" / "whole").exists()


def test_a_part_with_other_settings_or_encoders_is_refused(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    featurize_part(manifest, store, fake_encoders(), Part(0, 2), SMALL)
    with pytest.raises(StoreError, match="seed 0 -> 1"):
        featurize_part(manifest, store, fake_encoders(), Part(1, 2), StoreSettings(seed=1))
    encoders = fake_encoders()
    encoders[Modality.STR].layer = 2
    with pytest.raises(FingerprintError, match=r"str\.layer"):
        featurize_part(manifest, store, encoders, Part(1, 2), SMALL)
    # What was recorded holds for what is not said.
    assert featurize_part(manifest, store, fake_encoders(), Part(1, 2)).header.settings == SMALL


@pytest.mark.parametrize("text", ["2", "2/2", "-1/2", "a/2", "1/", "/2", "1/2/3", ""])
def test_a_part_is_a_number_below_how_many_there_are(text: str) -> None:
    with pytest.raises(UsageError, match="expected I/N"):
        Part.parse(text)
    assert Part.parse("3/16") == Part(3, 16)


def test_proteins_that_are_named_are_not_encoded_and_say_so(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    encoders = fake_encoders()
    outcome = featurize(manifest, store, encoders, SMALL, set_aside=["p3", "p5"])
    assert outcome.num_rejected == 2
    assert {(line.id, line.code) for line in read_quarantine(store / "quarantine.jsonl")} == {
        ("p3", "E_KILLED"),
        ("p5", "E_KILLED"),
    }
    seen = {id for encoder in encoders.encoders.values() for batch in encoder.batches for id in batch}
    assert seen == {f"p{number}" for number in range(24)} - {"p3", "p5"}
    with pytest.raises(InputError, match="has no protein 'nobody'"):
        featurize(manifest, memory_folder / "t.zarr", fake_encoders(), SMALL, set_aside=["nobody"])


def test_a_store_without_some_proteins_is_repaired_without_encoding_them(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    outcome = featurize(manifest, store, fake_encoders(), SMALL, set_aside=["p3", "p5"])
    before = tree(store)
    for unit in range(outcome.header.num_units):
        shard = store / f"seq/features/c/{unit}/0"
        shard.write_bytes(b"x" * shard.stat().st_size)
    encoders = fake_encoders()
    repair_store(store, ReplayOrigin(manifest, encoders), SMALL)
    assert tree(store) == before
    seen = {id for encoder in encoders.encoders.values() for batch in encoder.batches for id in batch}
    assert seen == {f"p{number}" for number in range(24)} - {"p3", "p5"}


@pytest.fixture
def amma_featurize(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake_encoders: Encoders
) -> Callable[..., tuple[int, str, str]]:
    """Run a command with fake encoders; gives its exit code, stdout and stderr."""
    monkeypatch.setattr(presets, "build_encoders", lambda preset, **_: fake_encoders())

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["amma-featurize", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def test_parts_seal_and_quarantine_as_they_are_typed(
    memory_folder: Path, write_proteins: WriteProteins, amma_featurize: Callable[..., tuple[int, str, str]], tree: Tree
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    (memory_folder / "ids.txt").write_text("p3\np5\n")
    left_out = ("--quarantine", memory_folder / "ids.txt")
    command = ("run", manifest.path, store, "--preset", "tiny", "--shard-rows", 64, "--threads", 1, *left_out)
    code, out, _ = amma_featurize(*command, "--part", "1/2", "--dry-run")
    assert code == 0
    assert "part         1/2: " in out
    assert "workers      this process, 1 threads each" in out
    code, out, _ = amma_featurize(*command, "--workers", 3, "--dry-run")
    assert "workers      3 local processes, 1 threads each" in out
    assert not store.exists()
    code, out, _ = amma_featurize(*command, "--part", "1/2")
    assert code == 0
    assert "seal" in out
    code, _, err = amma_featurize("seal", store)
    assert code == 1
    assert err.startswith("error E_UNSEALED: ")
    assert len(err.splitlines()) == 1
    code, out, _ = amma_featurize(*command, "--part", "0/2")
    assert f"amma-featurize seal {store}" in out
    code, out, err = amma_featurize("seal", store, "--strict")
    assert code == 3
    assert "quarantined  2 while encoding" in out
    code, out, _ = amma_featurize(*(str(each).replace("s.zarr", "whole.zarr") for each in command))
    assert tree(store) == tree(memory_folder / "whole.zarr")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "2", "--scheduler", "tcp://127.0.0.1:1"], "give one"),
        (["--worker-resource", "GPU=1"], "--scheduler"),
        (["--workers", "2", "--worker-resource", "GPU=1"], "--scheduler"),
        (["--part", "2/2"], "I from 0 to N-1"),
    ],
)
def test_options_that_contradict_each_other_are_misuse(
    memory_folder: Path,
    write_proteins: WriteProteins,
    amma_featurize: Callable[..., tuple[int, str, str]],
    options: list[str],
    said: str,
) -> None:
    manifest = write_proteins(memory_folder)
    code, _, err = amma_featurize("run", manifest.path, memory_folder / "s.zarr", "--preset", "tiny", *options)
    assert code == 2
    assert said in err
    assert not (memory_folder / "s.zarr").exists()


def test_parts_do_not_each_build_a_manifest(
    memory_folder: Path, amma_featurize: Callable[..., tuple[int, str, str]]
) -> None:
    (memory_folder / "a.fasta").write_text(">a\nAAAA\n")
    code, _, err = amma_featurize(
        "run", memory_folder / "a.fasta", memory_folder / "s.zarr", "--preset", "tiny", "--part", "0/2"
    )
    assert code == 2
    assert "amma-manifest build" in err
