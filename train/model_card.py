"""The model card of an exported model: what it is, what it was trained on, how good it is, and what it is not.

The front matter is the Hub's. The licence is left to whoever publishes the model: only they know the terms of what it
was trained on.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from amma.manifests.table import MODALITIES

PAPER = "https://arxiv.org/abs/2405.06663"
TAGS = ("amma", "biology", "protein", "protein-representation", "multimodal")
FEATURES = {"seq": "sequence", "str": "structure", "func": "function text"}


def render_card(config: Mapping[str, Any], *, num_parameters: int, per_token: bool) -> str:
    """The `README.md` beside `config`, the content of an exported model's `config.json`; in Markdown.

    `per_token` is the model's: whether it gives a row for each token, or one for each protein and modality.
    """
    from huggingface_hub import ModelCardData

    learned_by = "contrastive-learning" if config["model"]["family"] == "contrastive" else "masked-autoencoder"
    data = ModelCardData(library_name="amma", pipeline_tag="feature-extraction", tags=[*TAGS, learned_by])
    sections = (
        _what(config, num_parameters),
        _use(per_token=per_token),
        _reads(config),
        _training(config["training"]),
        _results(config["training"]),
        _limits(config),
    )
    front = f"---\n{data.to_yaml()}\n# license: yours to state before you publish this\n---\n"
    return "\n".join([front, *("\n".join(section) + "\n" for section in sections)])


def _what(config: Mapping[str, Any], num_parameters: int) -> Iterator[str]:
    model = config["model"]
    yield f"# AMMA, {model['family']}"
    yield ""
    if config["random_weights"]:
        yield (
            "> **Random encoders.** This model was trained on features of encoders with seeded random weights (preset "
            "`tiny`). It shows that the program works; it knows nothing about proteins."
        )
        yield ""
    yield (
        f"One representation of proteins from sequence, structure and function text: the `{model['family']}` model of "
        f"Asymmetric Multi-modal Masked Autoencoder (Ko et al., [arXiv 2405.06663]({PAPER})), trained with "
        f"[AMMA](#how-to-use-it) {config['training']['versions']['amma']}. {num_parameters:,} parameters, width "
        f"{model['width']}. It reads features of frozen encoders, not amino acids."
    )


def _use(*, per_token: bool) -> Iterator[str]:
    yield "## How to use it"
    yield ""
    rows = "one row a residue or token" if per_token else "one row a protein"
    yield "Features come from `amma-featurize run`, with the encoders named below. For every protein of a store, of"
    yield f"each modality {rows}, and one vector a protein:"
    yield ""
    yield "    amma-train embed THIS_FOLDER features.zarr embeddings.zarr --pooled vectors.parquet"
    yield ""
    yield "or in Python:"
    yield ""
    yield "```python"
    yield "from amma.featurize.store.reader import FeatureStore"
    yield "from amma.manifests.table import Modality"
    yield "from amma.train.data.collate import collate"
    yield "from amma.train.model.amma import AMMA"
    yield ""
    yield 'model = AMMA.from_pretrained("THIS_FOLDER").eval()'
    yield 'store = FeatureStore("features.zarr")'
    yield 'batch = collate(store, [store.row_of("P12345")], [Modality.SEQ, Modality.STR])'
    yield f"rows = model.fuse(batch).tokens[Modality.SEQ].features_TD  # {rows}"
    yield "```"


def _reads(config: Mapping[str, Any]) -> Iterator[str]:
    yield "## What it reads"
    yield ""
    yield "| modality | width | encoder |"
    yield "|---|---|---|"
    for modality in map(str, MODALITIES):
        if modality in config["widths"]:
            encoder = config["encoders"].get(modality, {})
            named = isinstance(encoder, dict)
            facts = ", ".join(f"{key} {_plain(encoder[key])}" for key in sorted(encoder)) if named else _plain(encoder)
            yield f"| {FEATURES[modality]} (`{modality}`) | {config['widths'][modality]} | {facts or '—'} |"
    yield ""
    yield "Stores of other encoders, or in another precision, are refused; `config.json` has the whole fingerprint."


def _training(training: Mapping[str, Any]) -> Iterator[str]:
    settings, proteins, inputs = training["config"], training["proteins"], training["inputs"]
    streams = ", ".join(f"{count:,} {name}" for name, count in sorted(proteins["streams"].items()))
    yield "## What it was trained on"
    yield ""
    yield f"* {sum(proteins['streams'].values()):,} proteins ({streams}) of {proteins['proteins']:,} in the stores."
    yield (
        f"* Excluded: {proteins['excluded']:,} ({proteins['excluded_listed']:,} by id, "
        f"{proteins['excluded_by_sequence']:,} more by equal sequence)."
    )
    held_out = f"* Held out for validation: {proteins['validation']:,}"
    clusters = proteins["validation_clusters_from"]
    yield f"{held_out}, by clusters of {_plain(clusters)}." if clusters else f"{held_out}."
    yield (
        f"* Step {training['step']:,} (epoch {training['epoch']}, {training['steps_per_epoch']:,} steps each), batch "
        f"{settings['mix']['batch_size']}, learning rate {settings['optimizer']['lr']:g}, {settings['precision']}, "
        f"seed {settings['seed']}."
    )
    yield f"* Stores, by root hash: {', '.join(f'`{root}`' for root in inputs['root_hashes'])}."
    yield ""
    yield "`seen.safetensors` has a hash of each training sequence: an evaluation can say what the model has seen."


def _results(training: Mapping[str, Any]) -> Iterator[str]:
    validation = (training["metrics"] or {}).get("validation")
    yield "## How good it is"
    yield ""
    if not validation:
        yield "No protein was held out, so nothing was measured."
        return
    yield "On the held-out proteins:"
    yield ""
    yield from _errors(validation)
    rest = {name: value for name, value in validation.items() if name not in ("error", "controls")}
    yield "| measure | value |"
    yield "|---|---|"
    for name, value in _leaves(rest):
        yield f"| {_plain(name)} | {value:.4g} |"


def _errors(validation: Mapping[str, Any]) -> Iterator[str]:
    """A table of errors, where the model rebuilds anything."""
    if not validation.get("error"):
        return
    yield "Errors are those of rebuilding the features: 1 is predicting the mean of every channel. Below each stands"
    yield "what it must beat: predicting the mean of each position, and the model when the other modalities are another"
    yield "protein's."
    yield ""
    controls = validation.get("controls", {})
    sources = [("model", validation["error"])]
    sources += [
        (name.replace("_", " "), controls[name]) for name in ("position", "another_protein") if name in controls
    ]
    yield "| modality | predicted by | all tokens | hidden | visible |"
    yield "|---|---|---|---|---|"
    for modality in map(str, MODALITIES):
        for name, errors in sources:
            if modality in errors:
                of = errors[modality]
                numbers = " | ".join(f"{of[key]:.4g}" if key in of else "—" for key in ("all", "hidden", "visible"))
                yield f"| {modality} | {name} | {numbers} |"
    yield ""


def _limits(config: Mapping[str, Any]) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield "* What is measured above is not what the representation is worth for a task. That must be measured on the"
    yield "  task: `amma-eval function` does, beside its controls."
    yield "* Proteins that the encoders cut short are represented as far as these read them."
    yield "* No licence is stated here. Those of the encoders' weights and of the training proteins' data apply."
    if config["random_weights"]:
        yield "* **Random encoders**: see the top."


def _leaves(values: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, float]]:
    """Every number by its dotted name, in order."""
    for key, value in sorted(values.items()):
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{at}{key}.")
        elif isinstance(value, int | float):
            yield f"{at}{key}", value


def _plain(value: Any) -> str:
    """Text for one cell of a table, and never markup: it may come from a file's name."""
    text = " ".join(str(value).split())
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, "\\" + sign)
    return text if len(text) <= 80 else f"{text[:80]}…"
