"""What `report.json` tells of the pretraining of its model: enough to find its row in a table of ablations."""

from typing import Any

from amma.featurize.store.fingerprint import fields
from amma.manifests.settings import Settings, sha256_of_json
from amma.train.model.config import PRESETS, WITHOUT_EFFECT, Family, ModelConfig
from amma.train.run.checkpoint import LoadedModel
from amma.train.run.config import FREE_TO_CHANGE

SEEDS = frozenset({"seed", "subset_seed"})
LENGTH = frozenset({"epochs", "max_steps"})


class PretrainingFacts(Settings):
    """How the model came to be, as its checkpoint says.

    `alpha` is None for a family that masks nothing. `num_triplets`, `num_seq_str` and `num_seq_func` are proteins that
    the run trained on, by the modalities they have; if it began with another model's weights, `began_with` is their
    sha256, and the proteins of that one are not counted. `epochs` is how many the run was for, `epochs_done` how many
    were over at this checkpoint. `preset` is the one that has these sizes, None if none has. `settings` are all that
    decide the run, by their dotted keys and as JSON, apart from seeds and paths.
    """

    family: Family
    recipe: str | None
    alpha: tuple[float, float, float] | None
    num_triplets: int
    num_seq_str: int
    num_seq_func: int
    subset: int | None
    epochs: int
    epochs_done: int
    seed: int
    subset_seed: int
    began_with: str | None
    preset: str | None
    num_parameters: int
    encoders_sha256: str
    settings: dict[str, str]

    @property
    def num_unpaired(self) -> int:
        """Proteins without text, or without a structure."""
        return self.num_seq_str + self.num_seq_func

    @staticmethod
    def of(trained: LoadedModel) -> "PretrainingFacts | None":
        """Those of an opened checkpoint; None for one that does not tell what it was trained on."""
        config, state = trained.config, trained.state
        if "proteins" not in state:
            return None
        streams = state["proteins"]["streams"]
        mask = config.get("mask")
        return PretrainingFacts(
            family=trained.model.config.family,
            recipe=config.get("recipe"),
            alpha=tuple(mask["alpha"]) if mask else None,
            num_triplets=streams.get("triplet", 0),
            num_seq_str=streams.get("seq-str", 0),
            num_seq_func=streams.get("seq-func", 0),
            subset=config.get("subset"),
            epochs=config["epochs"],
            epochs_done=state["epoch"],
            seed=config["seed"],
            subset_seed=config.get("subset_seed", 0),
            began_with=state["inputs"].get("init_from"),
            preset=_preset(trained.model.config),
            num_parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
            encoders_sha256=sha256_of_json(trained.store_fingerprint),
            settings=_settings(config),
        )


def _preset(config: ModelConfig) -> str | None:
    """The preset whose model this is, whatever its family; settings that the family does not use do not count."""
    idle = {"family", *WITHOUT_EFFECT[config.family].get("model", ())}
    sizes = config.model_dump(exclude=idle)
    return next((name for name, preset in PRESETS.items() if preset.model.model_dump(exclude=idle) == sizes), None)


def _settings(config: dict[str, Any]) -> dict[str, str]:
    """What decides the run and is not a seed; how long it is, too."""
    left_out = (FREE_TO_CHANGE | SEEDS) - LENGTH
    return {key: value for key, value in fields(config).items() if key not in left_out}
