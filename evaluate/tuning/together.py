"""What protocol `paper` tunes as one: the sequence encoder, and the model behind it."""

from torch import nn

from amma.evaluate.tuning.tunable_esm import TunableEsm
from amma.train.model.fusion import FusionModel


class Together(nn.Module):
    """A sequence encoder and the model that its features go into, by way of the model's frozen standardiser."""

    def __init__(self, esm: TunableEsm, fusion: FusionModel) -> None:
        super().__init__()
        self.esm = esm
        self.fusion = fusion
