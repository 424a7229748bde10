from collections.abc import Iterator

import numpy as np
import pytest
import torch

from amma.evaluate.config import Protocol, Rates
from amma.evaluate.metrics.exact import fmax
from amma.evaluate.tasks.task import Split, read_task
from amma.evaluate.tuning.bench import Bench
from amma.evaluate.tuning.finetune import predict, tune
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import LossError
from amma.train.model.amma import AMMA
from amma.train.run.checkpoint import load_model

RATES = {Protocol.FUSION: Rates(1e-3, 3e-3), Protocol.PROBE: Rates(None, 3e-3)}


@pytest.fixture
def store(planted) -> Iterator[FeatureStore]:
    with FeatureStore(planted.store) as store:
        yield store


def make_bench(planted, store: FeatureStore, protocol: Protocol, **finetune) -> Bench:
    task = read_task("ec", store, labels=planted.labels, splits=planted.splits)
    config = planted.config(protocol=str(protocol), **{"max_epochs": 4, **finetune})
    return Bench(store, task, config.finetune, torch.device("cpu"))


def weights(model: AMMA) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], prefix: str = "") -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items() if name.startswith(prefix))


def test_fusion_tunes_a_copy_and_leaves_its_start_alone(planted, store: FeatureStore) -> None:
    start = load_model(planted.run).model
    before = weights(start)
    fit = tune(start, make_bench(planted, store, Protocol.FUSION), RATES[Protocol.FUSION], 0)
    assert same(before, weights(start))
    after = weights(fit.model)
    for part in ("projections.seq", "projections.str", "encoder"):
        assert not same(before, after, part)
    for part in ("standardiser", "projections.func", "decoders", "lifts"):
        assert same(before, after, part)


def test_the_papers_list_leaves_the_projection_of_sequences_as_it_was(planted, store: FeatureStore) -> None:
    start = load_model(planted.run).model
    before = weights(start)
    fit = tune(start, make_bench(planted, store, Protocol.FUSION, tune="paper"), RATES[Protocol.FUSION], 0)
    assert same(before, weights(start))
    assert all(parameter.requires_grad for parameter in start.parameters())
    after = weights(fit.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    tuned = {name for name, _ in start.named_parameters() if name.startswith(("projections.str.", "encoder."))}
    assert changed == tuned
    assert all(parameter.grad is None for parameter in fit.model.projections["seq"].parameters())


def test_a_probe_changes_no_weight_of_the_model(planted, store: FeatureStore) -> None:
    start = load_model(planted.run).model
    before = weights(start)
    fit = tune(start, make_bench(planted, store, Protocol.PROBE), RATES[Protocol.PROBE], 0)
    assert same(before, weights(fit.model))
    assert all(parameter.grad is None for parameter in fit.model.parameters())


@pytest.mark.parametrize("protocol", list(RATES))
def test_the_kept_weights_are_those_of_the_best_epoch(planted, store: FeatureStore, protocol: Protocol) -> None:
    bench = make_bench(planted, store, protocol, max_epochs=40, patience=2)
    fit = tune(load_model(planted.run).model, bench, Rates(1e-2 if protocol is Protocol.FUSION else None, 3e-2), 0)
    assert fit.best_epoch < len(fit.epochs)  # such rates overshoot, else this shows nothing
    assert fit.best.rank == max(epoch.rank for epoch in fit.epochs)
    score_NK = predict(fit, bench, bench.task.valid).astype(np.float64)
    assert fmax(score_NK, bench.task.valid.target_NK).value == fit.best.valid_fmax


def test_tuning_stops_after_patience_epochs_without_a_better_fmax_or_loss(planted, store: FeatureStore) -> None:
    bench = make_bench(planted, store, Protocol.PROBE, max_epochs=60, patience=3)
    advanced: list[int] = []
    fit = tune(load_model(planted.run).model, bench, Rates(None, 3e-2), 0, advance=advanced.append)
    assert len(fit.epochs) < 60
    *before, last, second, third = fit.epochs
    for late in (last, second, third):
        assert late.valid_fmax <= max(epoch.valid_fmax for epoch in before)
        assert late.valid_loss >= min(epoch.valid_loss for epoch in before)
    assert sum(advanced) == 60  # the progress bar comes to its end


@pytest.mark.parametrize("protocol", list(RATES))
def test_the_same_seed_gives_the_same_scores_and_another_seed_others(
    planted, store: FeatureStore, protocol: Protocol
) -> None:
    bench = make_bench(planted, store, protocol)
    start = load_model(planted.run).model
    scores = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(scores))  # the global generator has no part in it
        fit = tune(start, bench, RATES[protocol], seed)
        scores.append(predict(fit, bench, bench.task.test))
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


@pytest.mark.parametrize("protocol", list(RATES))
def test_a_prediction_is_the_same_alone_and_among_many(planted, store: FeatureStore, protocol: Protocol) -> None:
    bench = make_bench(planted, store, protocol)
    fit = tune(load_model(planted.run).model, bench, RATES[protocol], 0)
    test = bench.task.test
    among = predict(fit, bench, test)
    for place in range(len(test.ids)):
        one = slice(place, place + 1)
        alone = predict(fit, bench, Split(test.ids[one], test.rows[one], test.target_NK[one], (), 0))
        np.testing.assert_allclose(alone[0], among[place], atol=1e-5)


def test_the_test_split_has_no_part_in_tuning(planted, store: FeatureStore) -> None:
    bench = make_bench(planted, store, Protocol.FUSION)
    task = bench.task
    nobody = Split(("x",), np.array([10**9]), np.zeros((1, len(task.terms)), dtype=bool), (), 0)
    blind = Bench(store, type(task)(task.name, task.terms, task.train, task.valid, nobody), bench.config, bench.device)
    start = load_model(planted.run).model
    assert tune(start, blind, RATES[Protocol.FUSION], 0).epochs == tune(start, bench, RATES[Protocol.FUSION], 0).epochs


def test_a_loss_that_is_not_finite_stops_with_what_to_do(planted, store: FeatureStore) -> None:
    start = load_model(planted.run).model
    with torch.no_grad():
        next(start.projections["seq"].parameters()).fill_(float("nan"))
    with pytest.raises(LossError, match=r"not finite in epoch 1.*--head-lr"):
        tune(start, make_bench(planted, store, Protocol.FUSION), RATES[Protocol.FUSION], 0)


@pytest.mark.parametrize("protocol", list(RATES))
def test_attention_is_learned_with_the_head_and_a_probe_still_leaves_the_model_alone(
    planted, store: FeatureStore, protocol: Protocol
) -> None:
    start = load_model(planted.run).model
    before = weights(start)
    bench = make_bench(planted, store, protocol, readout="attention")
    fit = tune(start, bench, RATES[protocol], 0)
    assert fit.head.pooling is not None
    assert fit.head.pooling.score.weight.any()  # zero at the start
    assert same(before, weights(fit.model)) == (protocol is Protocol.PROBE)
    assert all(parameter.grad is None for parameter in start.parameters())
    score_NK = predict(fit, bench, bench.task.valid).astype(np.float64)
    assert fmax(score_NK, bench.task.valid.target_NK).value == fit.best.valid_fmax


def test_a_model_that_gives_nan_is_an_error_that_names_the_protein(planted, store: FeatureStore) -> None:
    bench = make_bench(planted, store, Protocol.PROBE)
    start = load_model(planted.run).model
    valid = bench.vectors(start, bench.task.valid)

    def broken(places: np.ndarray) -> torch.Tensor:
        return torch.where(torch.from_numpy(places == 3)[:, None], torch.nan, valid(places))

    with pytest.raises(LossError, match=rf"NaN for protein '{bench.task.valid.ids[3]}' \(1 of 32"):
        tune(start, bench, RATES[Protocol.PROBE], 0, valid=broken)
