"""The encoder that ARCHITECTURE.md shows is the one that is installed, and a store and a model take its width."""

import re
from pathlib import Path

import numpy as np
import pytest
import transformers

from amma.featurize.encoders.presets import build_encoders
from amma.featurize.encoders.registry import ENCODERS, EncoderSpec
from amma.featurize.encoders.weights import fill_with_random_numbers
from amma.featurize.run import featurize
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.manifests.build import build_manifest
from amma.manifests.table import Manifest, Modality
from amma.manifests.toy import write_toy
from amma.train.run.checkpoint import load_model
from amma.train.run.config import RunConfig
from amma.train.run.loop import pretrain

REPOSITORY = Path(__file__).resolve().parents[2]
WIDTH = 56
"""Neither the width of the preset's sequence encoder nor that of any other."""
MOST = 40


@pytest.fixture(scope="module")
def shown() -> list[str]:
    """The code blocks of the document's part on encoders."""
    document = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    part = document.split("## Adding an encoder")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL)


def test_the_documented_encoder_is_the_installed_one_and_has_under_40_lines(shown: list[str]) -> None:
    module = (REPOSITORY / "featurize" / "encoders" / "huggingface_sequence.py").read_text(encoding="utf-8")
    imports, separator, rest = module.partition("\n\n\nclass ")

    assert shown[0] == (separator + rest).lstrip("\n")
    assert len(shown[0].splitlines()) < 40
    assert not re.search(r"^(def|class) ", imports, flags=re.MULTILINE)


def test_the_documented_line_of_the_registry_is_there(shown: list[str]) -> None:
    (line,) = shown[1].splitlines()
    name, function = re.fullmatch(r' *"(.*)": "(.*)",', line).groups()  # type: ignore[union-attr]

    assert ENCODERS[name] == function
    assert line in (REPOSITORY / "featurize" / "encoders" / "registry.py").read_text(encoding="utf-8").splitlines()


def test_the_document_stays_two_pages() -> None:
    assert len((REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= 125


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like ProtBERT's, at toy size: it takes 40 residues."""
    folder: Path = tmp_path_factory.mktemp("published") / "toy-protbert"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"LAGVSERTIDPKQNFYMHWCXBUZO"]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}')
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=MOST + 2, **sizes)
    protbert = transformers.BertForMaskedLM(config)
    fill_with_random_numbers(protbert, 0)
    protbert.save_pretrained(folder)
    return folder


def test_proteins_are_featurized_and_pretrained_on_with_it_at_its_own_width(tmp_path: Path, model: Path) -> None:
    write_toy(tmp_path / "data", proteins=16, seed=1)
    build_manifest(
        sequences=tmp_path / "data" / "sequences.fasta",
        structures=tmp_path / "data" / "structures",
        descriptions=tmp_path / "data" / "descriptions.tsv",
        out=tmp_path / "all.parquet",
    )
    spec = EncoderSpec(name="huggingface-seq", options={"model": str(model)})
    encoders = build_encoders("tiny", device="cpu", replaced={Modality.SEQ: spec})

    featurize(Manifest(tmp_path / "all.parquet"), tmp_path / "all.zarr", encoders, StoreSettings(shard_rows=1024))

    store = FeatureStore(tmp_path / "all.zarr")
    assert store.widths[Modality.SEQ] == WIDTH
    assert store.fingerprint["seq"]["encoder"] == "huggingface-seq"
    assert str(model) not in str(store.fingerprint)
    lengths = [min(len(sequence), MOST) for sequence in store.sequences()]
    assert store.length(Modality.SEQ).tolist() == lengths
    assert max(lengths) == MOST
    # The model's limit holds for structures too.
    structures = [store.read(Modality.STR, int(protein)) for protein in np.flatnonzero(store.present(Modality.STR))]
    assert max(int(rows.index.max()) for rows in structures if rows.index is not None) == MOST - 1
    assert all(np.isfinite(store.read(Modality.SEQ, protein).features).all() for protein in range(store.num_proteins))
    store.close()

    values = {
        "stores": (tmp_path / "all.zarr",),
        "model": {
            "width": 16,
            "ffn": 32,
            "num_fusion_layers": 1,
            "num_heads": 2,
            "decoder_width": 16,
            "decoder_ffn": 32,
            "num_decoder_layers": 1,
            "num_decoder_heads": 2,
        },
        "mask": {"visible_tokens": 24},
        "mix": {"batch_size": 4},
        "epochs": 1,
        "threads": 1,
        "device": "cpu",
    }
    outcome = pretrain(RunConfig.parse(values, source="test"), tmp_path / "run")

    assert outcome.step >= 1
    assert load_model(tmp_path / "run").model.widths[Modality.SEQ] == WIDTH
