"""What one step works on: its proteins, read and packed, and their masks."""

from collections.abc import Sequence
from dataclasses import dataclass

from amma.train.data.collate import collate
from amma.train.data.corpus import FeatureSource
from amma.train.data.packing import Pack
from amma.train.data.share import WHOLE, Share
from amma.train.data.streams import NUMBERS, Portion
from amma.train.model.batch import PackedBatch
from amma.train.model.config import MaskConfig
from amma.train.model.masking import Masks, draw_batch, generator_for, show_all


@dataclass(frozen=True)
class StepInput:
    """What one step needs: of each portion the batch, where it was packed to, and its masks, in host memory."""

    step: int
    portions: tuple[tuple[Portion, PackedBatch, Masks], ...]
    streams: tuple[str, ...] = ()
    """Those of the whole step, of which another process may have all proteins."""


def prepare_step(
    source: FeatureSource,
    plan: Sequence[Portion],
    step: int,
    *,
    seed: int,
    mask: MaskConfig | None,
    pack: Pack = collate,
    share: Share = WHOLE,
) -> StepInput:
    """Read the proteins of a step, or a share of them, and draw their masks (`mask` None: nothing is masked).

    A protein's mask depends on the seed, its stream, that stream's epoch and the position in it: on nothing that
    batch size, threads or ranks could change.
    """
    portions = []
    for portion in share.of(plan):
        batch = pack(source, [draw.protein for draw in portion.draws], portion.modalities)
        portions.append((portion, batch, _masks(portion, batch, seed, mask)))
    return StepInput(step, tuple(portions), tuple(portion.stream for portion in plan))


def _masks(portion: Portion, batch: PackedBatch, seed: int, mask: MaskConfig | None) -> Masks:
    if mask is None:
        return show_all(batch)
    generators = [generator_for(seed, NUMBERS[portion.stream], draw.epoch, draw.position) for draw in portion.draws]
    return draw_batch(generators, batch, mask)
