from collections.abc import Iterator

import pytest
import torch

from amma.evaluate.config import Protocol, Rates
from amma.evaluate.tasks.task import read_task
from amma.evaluate.tuning.bench import Bench
from amma.evaluate.tuning.protocol import num_epochs_at_most, run_protocol
from amma.featurize.store.reader import FeatureStore
from amma.train.run.checkpoint import load_model


@pytest.fixture
def bench(planted) -> Iterator[Bench]:
    config = planted.config(protocol="probe", head_lrs=(1e-6, 3e-3), num_seeds=3, max_epochs=5).finetune
    with FeatureStore(planted.store) as store:
        task = read_task("ec", store, labels=planted.labels, splits=planted.splits)
        yield Bench(store, task, config, torch.device("cpu"))


def test_rates_are_chosen_on_validation_with_the_first_seed_and_kept_for_the_others(planted, bench: Bench) -> None:
    model = load_model(planted.run).model
    advanced: list[int] = []
    outcome = run_protocol(lambda seed: model, bench, advance=advanced.append)
    assert [trial.rates for trial in outcome.trials] == [Rates(None, 1e-6), Rates(None, 3e-3)]
    assert outcome.trials[1].valid_fmax > outcome.trials[0].valid_fmax
    assert [run.trial.rates for run in outcome.runs] == [Rates(None, 3e-3)] * 3
    assert [run.trial.seed for run in outcome.runs] == [0, 1, 2]
    assert outcome.runs[0].trial == outcome.trials[1]
    assert sum(advanced) == num_epochs_at_most(bench.config)


def test_each_seed_starts_from_its_own_model(planted, bench: Bench) -> None:
    asked = []

    def start(seed: int):
        asked.append(seed)
        return load_model(planted.run).model

    run_protocol(start, bench)
    assert asked == [0, 1, 2]


def test_the_probe_computes_representations_once_for_all_rates(planted, bench: Bench, monkeypatch) -> None:
    model = load_model(planted.run).model
    passes = []
    fuse = model.fuse
    monkeypatch.setattr(model, "fuse", lambda batch: passes.append(len(batch.ids)) or fuse(batch))
    run_protocol(lambda seed: model, bench)
    assert bench.config.protocol is Protocol.PROBE
    # Training and validation once; each of three seeds scores validation and test once more.
    assert sum(passes) == 96 + 32 + 3 * (32 + 31)
