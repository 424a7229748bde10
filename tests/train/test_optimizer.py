import pytest
import torch

from amma.manifests.errors import CheckpointError
from amma.manifests.table import Modality
from amma.train.model.amma import AMMA
from amma.train.model.config import ModelConfig
from amma.train.run.config import OptimizerConfig
from amma.train.run.optimizer import make_optimizer, optimizer_tensors, restore_optimizer, set_lr


def test_matrices_decay_and_vectors_do_not(small: ModelConfig, widths: dict[Modality, int]) -> None:
    model = AMMA(small, widths)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, OptimizerConfig(lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if parameter.dim() == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)
    matrices = sum(p.numel() for p in model.parameters() if p.dim() >= 2)
    assert matrices > 0.9 * sum(p.numel() for p in model.parameters())


def test_the_state_comes_back_by_name(small: ModelConfig, widths: dict[Modality, int]) -> None:
    torch.manual_seed(0)
    models = [AMMA(small, widths) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [make_optimizer(model, OptimizerConfig()) for model in models]
    trained = {name: p for name, p in models[0].named_parameters() if not name.startswith("decoders.func")}
    gradients = {name: torch.randn_like(parameter) for name, parameter in trained.items()}

    def step(which: int) -> None:
        for name, parameter in models[which].named_parameters():
            parameter.grad = gradients.get(name)
        optimizers[which].step()

    step(0)
    models[1].load_state_dict(models[0].state_dict())
    saved = {name: value.clone() for name, value in optimizer_tensors(models[0], optimizers[0]).items()}
    assert not any("decoders.func" in name for name in saved)  # never had a gradient, so has no state
    restore_optimizer(models[1], optimizers[1], saved)
    step(0)
    step(1)
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name])


def test_the_state_of_another_model_is_refused(small: ModelConfig, widths: dict[Modality, int]) -> None:
    model = AMMA(small, widths)
    optimizer = make_optimizer(model, OptimizerConfig())
    for tensors in ({"exp_avg/nothing": torch.zeros(1)}, {"exp_avg/encoder.norm.weight": torch.zeros(3)}):
        with pytest.raises(CheckpointError, match="fits no parameter"):
            restore_optimizer(model, optimizer, tensors)


def test_the_rate_holds_for_every_parameter(small: ModelConfig, widths: dict[Modality, int]) -> None:
    optimizer = make_optimizer(AMMA(small, widths), OptimizerConfig())
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
