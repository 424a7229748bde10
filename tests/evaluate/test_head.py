import torch

from amma.evaluate.tuning.head import Head


def test_a_new_head_says_the_label_frequency_for_every_protein() -> None:
    torch.manual_seed(0)
    representation_BD, target_BK = torch.randn(40, 6), torch.rand(40, 3) < torch.tensor([0.0, 0.3, 1.0])
    probability_BK = Head(representation_BD, target_BK)(torch.randn(5, 6)).sigmoid()
    assert torch.equal(probability_BK[0], probability_BK[4])
    expected_K = (target_BK.sum(0) + 0.5) / 41
    torch.testing.assert_close(probability_BK[0], expected_K)


def test_the_scale_of_a_representation_does_not_matter() -> None:
    torch.manual_seed(0)
    representation_BD, target_BK = torch.randn(40, 6), torch.rand(40, 3) < 0.4
    heads = []
    for factor, shift in ((1.0, 0.0), (1000.0, 5.0)):
        torch.manual_seed(1)
        head = Head(representation_BD * factor + shift, target_BK)
        torch.nn.init.normal_(head.second.weight)
        heads.append(head(representation_BD * factor + shift))
    torch.testing.assert_close(heads[0], heads[1], atol=1e-4, rtol=1e-4)


def test_a_constant_channel_is_not_blown_up() -> None:
    representation_BD = torch.randn(40, 6)
    representation_BD[:, 2] = 3.0
    head = Head(representation_BD, torch.rand(40, 3) < 0.4)
    assert torch.isfinite(head(representation_BD)).all()
    constant = Head(torch.ones(4, 6), torch.rand(4, 3) < 0.4)
    assert torch.isfinite(constant(torch.ones(4, 6))).all()
