import pytest

from amma.evaluate.config import FinetuneConfig, FunctionConfig, Rates, TaskName, Tune
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
        ({"precision": "bf16"}, "precision has no effect with protocol fusion"),
        ({"protocol": "probe", "precision": "bf16"}, "precision has no effect with protocol probe"),
        ({"protocol": "paper", "fusion_lrs": ()}, "protocol paper needs at least one learning rate"),
        ({"lr_decay": 0.0}, "greater than 0"),
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


def function(task: str, device: str = "cpu", **finetune: object) -> FinetuneConfig:
    inputs = {"checkpoint": "run", "store": "x.zarr", "labels": "ec.tsv", "splits": "splits", "task": task}
    values = {**inputs, "device": device, "finetune": {"protocol": "paper", **finetune}}
    return FunctionConfig.parse(values, source="test").finetune


@pytest.mark.parametrize(
    ("task", "optimizer", "decay", "batch", "epochs"),
    [
        ("ec", "adamw", 0.01, 1, 100),
        ("go-mf", "adam", 0.0, 1, 50),
        ("go-cc", "adam", 0.0, 1, 50),
        ("go-bp", "adamw", 0.01, 4, 50),
    ],
)
def test_protocol_paper_is_what_the_paper_says_for_each_task(
    task: str, optimizer: str, decay: float, batch: int, epochs: int
) -> None:
    config = function(task)
    assert (config.optimizer, config.weight_decay, config.batch_size) == (optimizer, decay, batch)
    assert (config.max_epochs, config.patience, config.lr_decay, config.tune) == (epochs, epochs, 0.95, "paper")
    assert config.grid == (Rates(1e-5, 1e-4),)
    assert config.precision == "fp32"
    assert function(task, device="cuda:0").precision == "bf16"
    assert FinetuneConfig.model_validate_json(config.model_dump_json()) == config


def test_what_protocol_paper_says_can_be_changed() -> None:
    config = function("go-mf", optimizer="adamw", max_epochs=3, tune="all", precision="bf16", batch_size=2)
    assert (config.optimizer, config.weight_decay, config.max_epochs, config.patience) == ("adamw", 0.01, 3, 3)
    assert (config.tune, config.precision, config.batch_size) == ("all", "bf16", 2)


@pytest.mark.parametrize("key", ["preset", "seq_encoder", "weights", "recompute"])
def test_an_encoder_has_no_effect_where_none_is_tuned(key: str) -> None:
    values = {"checkpoint": "run", "store": "x.zarr", "labels": "ec.tsv", "splits": "splits", "task": "ec"}
    with pytest.raises(ConfigError, match=f"{key} has no effect with protocol fusion"):
        FunctionConfig.parse({**values, key: True if key == "recompute" else "tiny"}, source="test")


def test_every_task_of_the_command_line_has_a_column_in_label_tables() -> None:
    assert {str(name) for name in TaskName} == set(TASK_COLUMNS)
