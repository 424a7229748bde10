import json

import pytest

from amma.manifests.table import Modality
from amma.train.run.tally import EpochTally, ErrorTally


def test_sums_of_batches_make_the_mean_of_all_numbers() -> None:
    tally = ErrorTally()
    tally.add(Modality.SEQ, "hidden", 6.0, 3)
    tally.add(Modality.SEQ, "hidden", 2.0, 5)
    tally.add(Modality.SEQ, "visible", 4.0, 8)
    assert tally.mean(Modality.SEQ, "hidden") == 1.0
    assert tally.mean(Modality.SEQ, "hidden", "visible") == 0.75
    assert tally.mean(Modality.STR, "hidden") is None


def test_errors_are_given_relative_to_another_prediction_on_the_same_tokens() -> None:
    ours, theirs = ErrorTally(), ErrorTally()
    for tally, factor in ((ours, 1.0), (theirs, 4.0)):
        tally.add(Modality.STR, "hidden", 3.0 * factor, 6)
        tally.add(Modality.STR, "visible", 1.0 * factor, 2)
    assert ours.relative(theirs) == {"str": {"all": 0.25, "hidden": 0.25, "visible": 0.25}}
    assert ours.relative({Modality.STR: 2.0})["str"]["hidden"] == 0.25


def test_the_loss_adds_up_the_modalities() -> None:
    tally = ErrorTally()
    tally.add(Modality.SEQ, "trained", 6.0, 3)
    tally.add(Modality.FUNC, "trained", 1.0, 2)
    assert tally.loss == pytest.approx(2.5)


def test_a_tally_survives_json_to_the_bit() -> None:
    tally = EpochTally()
    tally.loss_total = 0.1 + 0.2
    tally.counts.update({"steps": 3, "proteins/seq": 2, "tokens/seq": 9, "visible/seq": 4, "stream/triplet": 2})
    tally.errors.add(Modality.SEQ, "hidden", 1 / 3, 7)
    again = EpochTally.from_json(json.loads(json.dumps(tally.as_json())))
    assert again.as_json() == tally.as_json()
    baseline = {Modality.SEQ: 1.0}
    assert again.summary(baseline) == tally.summary(baseline)
    assert again.summary(baseline)["visible_per_protein"] == {"seq": 2.0}
    assert again.summary(baseline)["drawn"] == {"triplet": 2}
