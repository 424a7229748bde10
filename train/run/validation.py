"""The errors on the proteins that were set aside, always under the same masks, beside what they must beat.

A small error by itself says little: much of a feature is its channel's mean, some is its position, and a model may
rebuild a token from the visible ones of the same modality without ever looking at the others. Hence the controls.

Legend: B proteins, T tokens of one modality, F width of its features.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from amma.manifests.table import Modality
from amma.train.data.collate import collate
from amma.train.data.corpus import FeatureSource
from amma.train.data.packing import Pack
from amma.train.data.position_profile import PositionProfile
from amma.train.data.streams import NUMBERS, Portion
from amma.train.model.batch import PackedBatch, Tokens
from amma.train.model.config import MaskConfig
from amma.train.model.masking import Masks, draw_batch, generator_for
from amma.train.model.objective import Losses
from amma.train.model.reconstruction import Reconstruction
from amma.train.run.agreement import Agreement
from amma.train.run.ranks import ALONE, Ranks
from amma.train.run.step import PARTS, StepError, Stepper
from amma.train.run.step_input import StepInput, prepare_step
from amma.train.run.tally import ErrorTally, Part


@dataclass(frozen=True)
class ValidationResult:
    """The loss over the whole validation set as one batch; errors relative to predicting the training mean.

    `terms` are what the loss is the sum of, `chance` what they are for who knows nothing, where that depends on the
    batch. Where something is rebuilt, `error` is the model's own. Of `controls`, `position` predicts the training
    proteins' mean at each position; `another_protein` is the model when all other modalities have another protein's
    contents; `hidden_whole` is the error of a modality that is hidden whole, rebuilt from its `own` protein's other
    modalities and from `another_protein`'s. Where a stream has a single validation protein there is no other, and no
    such entry. `vectors` are `Agreement.figures` on some of the proteins.
    """

    loss: float
    terms: dict[str, float]
    chance: dict[str, float]
    error: dict[str, dict[str, float]]
    controls: dict[str, Any]
    vectors: dict[str, Any]


@dataclass(frozen=True)
class ValidationInput:
    """One validation batch; `whole` has for each modality masks that hide all of it, `donor` the other proteins."""

    given: StepInput
    whole: dict[Modality, Masks]
    donor: PackedBatch | None


def donors(validation: Sequence[Portion]) -> list[Portion | None]:
    """For each batch the proteins whose contents it is given: the next ones of its stream, the last gets the first.

    None where a stream has a single protein.
    """
    of_stream = {name: [d for p in validation if p.stream == name for d in p.draws] for name in NUMBERS}
    following = {name: iter([*draws[1:], *draws[:1]]) for name, draws in of_stream.items()}
    return [
        Portion(p.stream, 1.0, tuple(next(following[p.stream]) for _ in p.draws))
        if len(of_stream[p.stream]) > 1
        else None
        for p in validation
    ]


def prepare_validation(
    source: FeatureSource,
    portion: Portion,
    donor: Portion | None,
    number: int,
    *,
    seed: int,
    mask: MaskConfig | None,
    pack: Pack = collate,
    controls: bool = True,
) -> ValidationInput:
    """Read a validation batch and its donors, and draw its masks: pure functions of the seed and the protein.

    A modality that is hidden whole leaves the masks of the others as if the proteins lacked it. Without `controls`
    there are neither such masks nor donors.
    """
    given = prepare_step(source, (portion,), number, seed=seed, mask=mask, pack=pack)
    if not controls or mask is None:
        return ValidationInput(given, {}, None)
    ((_, batch, _),) = given.portions
    whole = {}
    for target in batch.modalities:
        others = PackedBatch(batch.ids, {m: tokens for m, tokens in batch.tokens.items() if m is not target})
        generators = [
            generator_for(seed, NUMBERS[portion.stream], draw.epoch, draw.position, batch.modalities.index(target))
            for draw in portion.draws
        ]
        masks = draw_batch(generators, others, mask.model_copy(update={"modality_dropout": 0.0}))
        nothing_T = torch.zeros(len(batch.tokens[target].position_T), dtype=torch.bool)
        whole[target] = Masks({**masks.visible, target: nothing_T}, masks.counts)
    contents = None if donor is None else pack(source, [draw.protein for draw in donor.draws], donor.modalities)
    return ValidationInput(given, whole, contents)


def with_contents_of(donor: PackedBatch, batch: PackedBatch, keep: Modality) -> PackedBatch:
    """`batch` with the donors' features in all modalities but `keep`.

    Lengths and positions stay those of `batch`, so that the same masks fit; a donor's rows are taken from its first
    on, and again from the first where it is shorter.
    """
    tokens = {}
    for modality, own in batch.tokens.items():
        if modality is keep:
            tokens[modality] = own
            continue
        theirs = donor.tokens[modality]
        row_T = torch.cat(
            [
                start + torch.arange(length) % available
                for length, start, available in zip(
                    own.lengths.tolist(), theirs.offsets[:-1].tolist(), theirs.lengths.tolist(), strict=True
                )
            ]
        )
        features_TF = theirs.features_TD.index_select(0, row_T.to(theirs.features_TD.device))
        tokens[modality] = Tokens(features_TF, own.offsets, own.position_T)
    return PackedBatch(batch.ids, tokens)


def validate(
    stepper: Stepper,
    batches: Iterable[ValidationInput],
    profiles: Mapping[Modality, PositionProfile],
    agreement: Agreement,
    step: int = 0,
    ranks: Ranks = ALONE,
) -> ValidationResult:
    """Go through the batches once, in evaluation mode and without gradients; `agreement` is a new one.

    Of several processes each has batches of its own, and all get the result of all. Raises `LossError` if the loss of a
    batch is not finite after `step` steps.
    """
    sums: defaultdict[str, _Sums] = defaultdict(_Sums)
    seen: list[tuple[StepInput, Tensor]] = []
    model, objective = stepper.model, stepper.objective
    model.eval()
    with torch.no_grad():
        for item in batches:
            ((portion, on_host, masks),) = item.given.portions
            batch = on_host.to(stepper.device)
            agreement.add(item.given.step, model, batch)
            losses = stepper.losses(batch, masks)
            sums["model"].add(losses)
            # Of the batch only its ids are kept: who was in it must be known when all are through.
            seen.append((StepInput(step, ((portion, PackedBatch(batch.ids, {}), masks),)), losses.total()))
            if isinstance(objective, Reconstruction):
                _add_controls(sums, stepper, objective, item, batch, masks, profiles)
    model.train()
    losses_of = torch.stack([total for _, total in seen]).tolist() if seen else []
    mine = [(given, loss) for (given, _), loss in zip(seen, losses_of, strict=True) if not isfinite(loss)]
    faults = ranks.gathered([loss for _, loss in mine[:1]])
    if where := [rank for rank, losses in enumerate(faults) if losses]:
        # All raise the same; who was in the batch knows the process that had it.
        given = mine[0][0] if ranks.rank == where[0] else StepInput(step, ())
        raise StepError(given, "validation loss", faults[where[0]][0])
    tally: defaultdict[str, ErrorTally] = defaultdict(ErrorTally)
    for part in ranks.gathered({name: of.tally() for name, of in sums.items()}):
        for name, of_part in part.items():
            tally[name].merge(of_part)
    agreement.merge(ranks)
    hidden_whole: dict[str, dict[str, float]] = {}
    for name, key in (("whole", "own"), ("whole another", "another_protein")):
        for modality, parts in tally[name].relative(tally[f"{name} mean"]).items():
            hidden_whole.setdefault(modality, {})[key] = parts["hidden"]
    controls = {
        "position": tally["position"].relative(tally["mean"]),
        "another_protein": tally["another"].relative(tally["another mean"]),
        "hidden_whole": hidden_whole,
    }
    ours = tally["model"]
    return ValidationResult(
        loss=ours.loss,
        terms=ours.terms("trained"),
        chance=ours.terms("chance"),
        error=ours.relative(tally["mean"]),
        controls=controls if isinstance(objective, Reconstruction) else {},
        vectors=agreement.figures(),
    )


def _add_controls(
    sums: Mapping[str, "_Sums"],
    stepper: Stepper,
    objective: Reconstruction,
    item: ValidationInput,
    batch: PackedBatch,
    masks: Masks,
    profiles: Mapping[Modality, PositionProfile],
) -> None:
    """What the errors of a batch must be held against."""
    model = stepper.model
    mean = objective.of_the_mean(model, batch, masks.visible)
    sums["mean"].add(mean)
    by_position = {m: profiles[m].at(tokens.position_T) for m, tokens in batch.tokens.items()}
    sums["position"].add(objective.errors(model, batch, masks.visible, by_position))
    donor = None if item.donor is None else item.donor.to(stepper.device)
    for target, whole in item.whole.items():
        whole_mean = objective.of_the_mean(model, batch, whole.visible)
        sums["whole"].add(stepper.losses(batch, whole), only=target)
        sums["whole mean"].add(whole_mean, only=target)
        if donor is None:
            continue
        swapped = with_contents_of(donor, batch, target)
        sums["another"].add(stepper.losses(swapped, masks), only=target)
        sums["another mean"].add(mean, only=target)
        sums["whole another"].add(stepper.losses(swapped, whole), only=target)
        sums["whole another mean"].add(whole_mean, only=target)


class _Sums:
    """Collects the sums where they are computed; the host reads them once, at the end."""

    def __init__(self) -> None:
        self._keys: list[tuple[str, Part, int]] = []
        self._totals: list[Tensor] = []

    def add(self, losses: Losses, *, only: Modality | None = None) -> None:
        for part in PARTS:
            for term, error in getattr(losses, part).items():
                if only in (None, term):
                    self._keys.append((term, part, error.count))
                    self._totals.append(error.total)

    def tally(self) -> ErrorTally:
        tally = ErrorTally()
        totals: Sequence[float] = torch.stack(self._totals).tolist() if self._totals else []
        for (term, part, count), total in zip(self._keys, totals, strict=True):
            tally.add(term, part, total, count)
        return tally
