"""`amma-featurize` as it is typed: exit codes, one-line errors, what goes to stdout."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from amma.featurize import cli
from amma.featurize.encoders import presets
from amma.featurize.encoders.choice import EncoderChoice
from amma.featurize.options import EncodingOptions
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.manifests.option_table import annotations
from amma.manifests.quarantine import read_quarantine
from amma.manifests.table import MODALITIES, Manifest, Modality

WriteProteins = Callable[..., Manifest]


@pytest.fixture
def amma_featurize(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake_encoders: Callable[[], Any]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command with fake encoders; gives its exit code, stdout and stderr."""

    def build(preset: str, **_: object) -> Any:
        encoders = fake_encoders()
        encoders[Modality.FUNC].failing = {"p1": RuntimeError("broken")} if preset == "broken" else {}
        return encoders

    monkeypatch.setattr(presets, "build_encoders", build)
    monkeypatch.setitem(presets.PRESETS, "broken", presets.PRESETS["tiny"])

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["amma-featurize", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def test_run_then_status_verify_and_inspect(
    memory_folder: Path, write_proteins: WriteProteins, amma_featurize: Callable[..., tuple[int, str, str]]
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    command = ("run", manifest.path, store, "--preset", "tiny", "--shard-rows", 64, "--threads", 1)
    code, out, _ = amma_featurize(*command, "--dry-run")
    assert code == 0
    assert "24 (" in out
    assert not store.exists()
    code, out, err = amma_featurize(*command)
    assert code == 0
    assert FeatureStore(store).root_hash in out
    assert "sealed (random encoders)" in err
    code, out, err = amma_featurize("run", manifest.path, store, "--preset", "tiny")
    assert code == 0
    assert "was sealed already" in err

    code, out, _ = amma_featurize("status", store, "--json")
    status = json.loads(out)
    assert code == 0
    assert (status["sealed"], status["proteins"], status["proteins_done"]) == (True, 24, 24)
    code, out, _ = amma_featurize("status", store)
    assert "24 of 24" in out
    code, out, _ = amma_featurize("inspect", store, "--json")
    described = json.loads(out)
    opened = FeatureStore(store)
    assert described["random_encoders"] is True
    assert described["root"] == opened.root_hash
    assert described["fingerprint"]["dtype"] == "float16"
    for modality in MODALITIES:
        lengths = opened.length(modality)[opened.present(modality)]
        rows = [opened.read(modality, row).features for row in range(24) if opened.present(modality)[row]]
        part = described["modalities"][modality]
        assert (part["proteins"], part["rows"], part["length"]["max"]) == (len(lengths), lengths.sum(), lengths.max())
        stacked = [value for matrix in rows for value in matrix.astype("f8").tolist()]
        means = [sum(channel) / len(stacked) for channel in zip(*stacked, strict=True)]
        assert part["channel_mean"]["max"] == pytest.approx(max(means), abs=1e-6)
        sigmas = [
            (sum((value - mean) ** 2 for value in channel) / len(stacked)) ** 0.5
            for channel, mean in zip(zip(*stacked, strict=True), means, strict=True)
        ]
        assert part["channel_sigma"]["min"] == pytest.approx(min(sigmas), rel=1e-6)
    code, out, _ = amma_featurize("inspect", store)
    assert "random encoders" in out

    assert amma_featurize("verify", store)[0] == 0
    shard = store / "seq/features/c/0/0"
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    shard.write_bytes(data)
    assert amma_featurize("verify", store, "--quick")[0] == 0
    code, out, _ = amma_featurize("verify", store)
    assert code == 1
    assert "seq/features/c/0/0 (unit 0)" in out
    assert repr(opened.ids[0]) in out
    code, out, _ = amma_featurize("verify", store, "--json")
    assert code == 1
    assert json.loads(out)["findings"][0]["proteins"] == [opened.ids[0]]


def test_a_damaged_store_is_repaired_from_its_manifest_and_the_exit_code_says_what_is_left(
    memory_folder: Path, write_proteins: WriteProteins, amma_featurize: Callable[..., tuple[int, str, str]]
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    code, _, _ = amma_featurize("run", manifest.path, store, "--preset", "tiny", "--shard-rows", 64)
    assert code == 0
    root = FeatureStore(store).root_hash
    command = ("repair", store, manifest.path, "--preset", "tiny")
    code, out, _ = amma_featurize(*command)
    assert (code, "intact, nothing to repair" in out) == (0, True)
    (store / "seq/features/c/1/0").unlink()
    (store / "zarr.json").write_text("{}")
    code, out, _ = amma_featurize(*command, "--dry-run")
    assert code == 1
    assert "seq/features/c/1/0 (unit 1): is missing; hits" in out
    assert not (store / "seq/features/c/1/0").exists()
    code, out, err = amma_featurize(*command, "--json")
    done = json.loads(out)
    assert (code, done["ok"], done["units"], done["root"]) == (0, True, [1], root)
    assert sorted(done["files"]) == ["seq/features/c/1/0", "zarr.json"]
    assert "repair: " in err
    assert amma_featurize("verify", store)[0] == 0
    (store / "seq" / "mine").write_text("mine")
    code, out, _ = amma_featurize(*command)
    assert (code, "What remains:" in out, "seq/mine" in out) == (1, True, True)
    (store / "seq" / "mine").unlink()
    (store / "plan.json").unlink()
    code, out, err = amma_featurize(*command)
    assert (code, out) == (1, "")
    assert err.count("\n") <= 2
    assert "error E_REPAIR" in err
    code, out, _ = amma_featurize(*command, "--shard-rows", 64)
    assert (code, FeatureStore(store).root_hash) == (0, root)


def test_quarantined_proteins_are_counted_and_strict_makes_them_an_exit_code(
    memory_folder: Path,
    write_proteins: WriteProteins,
    amma_featurize: Callable[..., tuple[int, str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    manifest = write_proteins(memory_folder)
    for flags, expected in (((), 0), (("--strict",), 3)):
        command = ("run", manifest.path, memory_folder / f"s{expected}.zarr", "--preset", "broken", "--shard-rows", 64)
        code, out, _ = amma_featurize(*command, *flags)
        assert code == expected
        assert "1 while encoding" in out
        assert "'p1' left out: func: the encoder failed on it alone (RuntimeError)" in caplog.text
        (line,) = read_quarantine(memory_folder / f"s{expected}.zarr" / "quarantine.jsonl")
        assert (line.id, line.code) == ("p1", "E_CRASH")


def test_fasta_structures_and_texts_are_built_into_a_manifest_beside_the_store(
    memory_folder: Path, write_proteins: WriteProteins, amma_featurize: Callable[..., tuple[int, str, str]]
) -> None:
    manifest = write_proteins(memory_folder / "in")
    fasta = memory_folder / "in" / "all.fasta"
    fasta.write_text("".join(f">{protein.id}\n{protein.sequence}\n" for protein in manifest))
    store = memory_folder / "real.zarr"
    command = ("run", fasta, store, "--structures", memory_folder / "in", "--preset", "tiny", "--shard-rows", 64)
    assert amma_featurize(*command, "--dry-run")[0] == 0
    assert sorted(path.name for path in memory_folder.iterdir()) == ["in"]
    assert amma_featurize(*command)[0] == 0
    opened = FeatureStore(store)
    with_structure = {protein.id for protein in manifest if protein.structure is not None}
    assert {opened.ids[row] for row in range(24) if opened.present(Modality.STR)[row]} == with_structure
    assert (memory_folder / "real.manifest.parquet").exists()
    assert amma_featurize("run", memory_folder / "in", memory_folder / "b.zarr", "--preset", "tiny")[0] == 0
    assert len(FeatureStore(memory_folder / "b.zarr")) == len(with_structure)


def test_misuse_is_one_line_that_says_what_to_do(
    memory_folder: Path, write_proteins: WriteProteins, amma_featurize: Callable[..., tuple[int, str, str]]
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    nowhere = memory_folder / "nowhere.parquet"
    for args, code, words in (
        (("run", nowhere, store, "--preset", "tiny"), 1, "no such file"),
        (("run", manifest.path, store, "--preset", "tiny", "--structures", memory_folder), 2, "is a manifest"),
        (("run", manifest.path, store, "--preset", "tiny", "--shard-rows", 300), 2, "must divide"),
        (("run", manifest.path, store, "--preset", "tiny", "--shard-rows", 8), 1, "--shard-rows"),
        (("status", memory_folder), 1, "not a feature store"),
        (("verify", memory_folder), 1, "not a feature store"),
        (("inspect", memory_folder), 1, "not a feature store"),
    ):
        ended, out, err = amma_featurize(*args)
        assert (ended, out) == (code, "")
        assert words in err
        assert "Traceback" not in err
    assert not store.exists()


def test_help_needs_neither_torch_nor_the_store_libraries() -> None:
    code = (
        "import sys, amma.featurize.cli as c\n"
        "sys.argv = ['amma-featurize', 'run', '--help']\n"
        "try: c.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'zarr', 'pyarrow', 'numpy', 'transformers'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "--token-budget" in ended.stdout


@pytest.mark.parametrize("name", ["run", "repair"])
def test_both_commands_that_encode_take_all_options_of_encoders_and_stores(name: str) -> None:
    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    options = set(annotations(EncodingOptions))
    assert options <= {parameter.name for parameter in command.params}
    assert set(EncoderChoice.model_fields) <= options
    assert set(StoreSettings.model_fields) - options == {"chunk_rows"}


def test_only_the_settings_that_were_given_are_asked_for() -> None:
    assert EncodingOptions("tiny").settings().model_fields_set == set()
    assert EncodingOptions("tiny", seed=0, threads=3).settings().model_fields_set == {"seed", "threads"}
