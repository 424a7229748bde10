import pytest

from amma.evaluate.config import FinetuneConfig, Rates, TaskName, Tune
from amma.manifests.errors import ConfigError
from amma.manifests.labels import TASK_COLUMNS


def test_the_grid_is_every_pair_of_learning_rates() -> None:
    assert FinetuneConfig(fusion_lrs=(1e-5, 1e-4), head_lrs=(1e-3,)).grid == (Rates(1e-5, 1e-3), Rates(1e-4, 1e-3))


def test_a_probe_has_no_learning_rate_for_the_fusion_encoder() -> None:
    config = FinetuneConfig.parse({"protocol": "probe", "head_lrs": (1e-3, 1e-2)}, source="test")
    assert config.grid == (Rates(None, 1e-3), Rates(None, 1e-2))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"protocol": "probe", "fusion_lrs": (1e-5,)}, "no effect with protocol probe"),
        ({"protocol": "probe", "tune": "all"}, "tune has no effect with protocol probe"),
        ({"fusion_lrs": ()}, "needs at least one learning rate for the fusion encoder"),
        ({"head_lrs": ()}, "at least 1 item"),
        ({"head_lrs": (0.0,)}, "greater than 0"),
        ({"patiance": 3}, "patiance"),
    ],
)
def test_settings_without_effect_or_out_of_range_are_refused(values: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        FinetuneConfig.parse(values, source="test")


def test_a_configuration_read_back_from_its_json_is_the_same() -> None:
    probe = FinetuneConfig.parse({"protocol": "probe"}, source="test")
    paper = FinetuneConfig(tune=Tune.PAPER)
    assert (FinetuneConfig().tune, paper.tune, probe.tune, paper.head_alone.tune) == ("all", "paper", None, None)
    for config in (FinetuneConfig(), paper, probe, paper.head_alone):
        assert FinetuneConfig.model_validate_json(config.model_dump_json()) == config


def test_every_task_of_the_command_line_has_a_column_in_label_tables() -> None:
    assert {str(name) for name in TaskName} == set(TASK_COLUMNS)
