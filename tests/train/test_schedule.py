import torch

from amma.train.run.schedule import StepDecay, last_step


def test_the_rate_follows_torchs_step_decay_stepped_once_an_epoch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-4)
    reference = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    schedule = StepDecay(base=1e-4, gamma=0.5, every_epochs=3, steps_per_epoch=7)
    for epoch in range(10):
        for step in range(7 * epoch, 7 * epoch + 7):
            torch.testing.assert_close(schedule.at(step), optimizer.param_groups[0]["lr"], rtol=1e-12, atol=0)
        optimizer.step()
        reference.step()


def test_a_run_ends_with_its_epochs_or_earlier() -> None:
    assert last_step(epochs=3, steps_per_epoch=10, max_steps=None) == 30
    assert last_step(epochs=3, steps_per_epoch=10, max_steps=12) == 12
    assert last_step(epochs=3, steps_per_epoch=10, max_steps=99) == 30
