"""The head on a representation: two fully connected layers, one logit a term.

Shapes: B proteins, D width of the representation, K terms.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from amma.evaluate.tuning.readout import AttentionPooling


class Head(nn.Module):
    """D → D → K with a GELU between them.

    Its inputs are standardised with the per-channel mean and σ that the representations of the training split had
    before tuning, and its last bias starts at the log-odds of each term in training: so it starts where the
    label-frequency control stands, at the same scale for any encoder. `pooling`, where there is one, makes the
    representations that go in, and is learned along.
    """

    def __init__(
        self,
        representation_BD: Float[Tensor, "B D"],
        target_BK: Bool[Tensor, "B K"],
        pooling: AttentionPooling | None = None,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        width, num_terms = representation_BD.shape[1], target_BK.shape[1]
        sigma_D = representation_BD.std(dim=0, correction=0)
        self.register_buffer("mean", representation_BD.mean(dim=0))
        self.register_buffer("scale", sigma_D.clamp_min(1e-3 * float(sigma_D.median()) or 1.0))
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, num_terms)
        # Half a count each way keeps the log-odds of terms that no or every training protein has finite.
        share_K = (target_BK.sum(dim=0) + 0.5) / (len(target_BK) + 1)
        nn.init.zeros_(self.second.weight)
        self.second.bias.data.copy_(share_K.logit())

    def forward(self, representation_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """Logits."""
        standardised_BD = (representation_BD - self.get_buffer("mean")) / self.get_buffer("scale")
        logits_BK: Tensor = self.second(gelu(self.first(standardised_BD)))
        return logits_BK
