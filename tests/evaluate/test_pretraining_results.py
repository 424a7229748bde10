from dataclasses import replace

from amma.evaluate.report.pretraining_results import PretrainingFacts
from amma.train.model.config import PRESETS
from amma.train.model.family import make_model
from amma.train.run.checkpoint import load_model


def test_facts_of_pretraining_are_those_of_the_checkpoint(planted) -> None:
    trained = load_model(planted.run)
    facts = PretrainingFacts.of(trained)
    assert facts is not None
    assert (facts.family, facts.alpha, facts.preset, facts.began_with) == ("asymmetric", (1.0, 2.0, 2.0), None, None)
    assert (facts.num_triplets, facts.num_seq_str, facts.num_seq_func, facts.num_unpaired) == (137, 0, 23, 23)
    assert (facts.epochs, facts.epochs_done, facts.seed) == (4, 3, 7)
    assert facts.settings["model.width"] == "16"
    assert facts.settings["epochs"] == "4"
    assert not facts.settings.keys() & {"seed", "device", "stores"}


def test_seeds_and_devices_make_no_other_settings_and_a_learning_rate_does(planted) -> None:
    trained = load_model(planted.run)

    def settings(**changed: object) -> dict[str, str]:
        facts = PretrainingFacts.of(replace(trained, config={**trained.config, **changed}))
        assert facts is not None
        return facts.settings

    assert settings(seed=8, device="cuda", exclude=["elsewhere.txt"]) == settings()
    assert settings(optimizer={"lr": 2e-3}) != settings()
    assert settings(epochs=5) != settings()


def test_a_preset_is_known_by_its_sizes_whatever_the_family(planted) -> None:
    trained = load_model(planted.run)
    for family in ("symmetric", "contrastive"):
        config = PRESETS["tiny"].model.model_copy(update={"family": family})
        facts = PretrainingFacts.of(replace(trained, model=make_model(config, trained.model.widths)))
        assert facts is not None
        assert (facts.family, facts.preset) == (family, "tiny")


def test_a_checkpoint_that_does_not_tell_has_no_facts(planted) -> None:
    trained = load_model(planted.run)
    state = {key: value for key, value in trained.state.items() if key != "proteins"}
    assert PretrainingFacts.of(replace(trained, state=state)) is None
