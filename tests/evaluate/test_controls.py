import numpy as np
import pytest
import torch

from amma.evaluate.controls.baselines import ceiling, label_frequency, untrained_models
from amma.evaluate.metrics.exact import aupr, fmax
from amma.evaluate.tasks.task import Split, Task, read_task
from amma.featurize.store.reader import FeatureStore
from amma.train.run.checkpoint import load_model


@pytest.fixture
def task(planted) -> Task:
    with FeatureStore(planted.store) as store:
        return read_task("ec", store, labels=planted.labels, splits=planted.splits)


def make_split(target_NK: np.ndarray) -> Split:
    return Split(tuple(f"p{n}" for n in range(len(target_NK))), np.arange(len(target_NK)), target_NK, (), 0)


def test_label_frequency_is_that_of_training_for_every_protein(task: Task) -> None:
    score_NK = label_frequency(task, task.test)
    assert score_NK.shape == task.test.target_NK.shape
    assert (score_NK == score_NK[0]).all()
    np.testing.assert_allclose(score_NK[0], task.train.target_NK.sum(axis=0) / 96)


def test_untrained_models_have_fresh_weights_per_seed_and_the_checkpoints_standardisation(planted) -> None:
    trained = load_model(planted.run)
    state = torch.random.get_rng_state()
    fresh = untrained_models(trained)
    first, again, other = fresh(0), fresh(0), fresh(1)
    assert torch.equal(state, torch.random.get_rng_state())
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        if name.startswith("standardiser"):
            assert torch.equal(value, trained.model.state_dict()[name])
        elif name.endswith("weight") and value.ndim == 2:
            assert not torch.equal(value, trained.model.state_dict()[name])
            assert not torch.equal(value, other.state_dict()[name])


def test_the_ceiling_is_one_where_training_has_every_term() -> None:
    target_NK = np.array([[True, False, True], [False, True, False]])
    split = make_split(target_NK)
    best = ceiling(Task("t", ("a", "b", "c"), split, split, split), split)
    assert (best.fmax, best.aupr, best.num_unseen_terms, best.num_unseen_pairs) == (1.0, 1.0, 0, 0)


def test_unseen_terms_lower_the_ceiling_to_what_the_best_blind_model_gets() -> None:
    train = make_split(np.array([[True, True, False, False]]))
    test = make_split(np.array([[True, False, True, False], [False, True, False, False], [False, False, True, False]]))
    task = Task("t", ("a", "b", "c", "d"), train, train, test)
    best = ceiling(task, test)
    assert best.num_unseen_terms == 1
    assert best.num_unseen_pairs == 2
    # Two proteins predicted, both right: P = 1; R = (1/2 + 1 + 0) / 3 = 1/2.
    assert best.fmax == pytest.approx(2 / 3)
    # Nothing a model knows can order the pairs of terms it never saw: they come last, all tied.
    assert best.aupr == pytest.approx(0.5 + 0.5 * 4 / 12)


def test_no_model_that_is_blind_to_unseen_terms_beats_the_ceiling(task: Task) -> None:
    best = ceiling(task, task.test)
    rng = np.random.default_rng(0)
    for _ in range(200):
        score_NK = np.where(task.test.target_NK, 0.7, 0.3) + rng.normal(0, rng.random() / 3, task.test.target_NK.shape)
        score_NK[:, ~task.seen_K] = score_NK.min() - 1
        assert fmax(score_NK, task.test.target_NK).value <= best.fmax + 1e-12
        assert aupr(score_NK, task.test.target_NK) <= best.aupr + 1e-12
