"""A report without a computation behind it, for what only shows reports."""

from collections.abc import Callable

import pytest

from amma.evaluate.config import FinetuneConfig
from amma.evaluate.results import (
    CeilingFacts,
    Inputs,
    Leakage,
    PrCurve,
    Provenance,
    Report,
    Row,
    Run,
    SplitFacts,
    Summary,
    TaskFacts,
    TrialRecord,
)


def make_run(seed: int | None, fmax: float, aupr: float) -> Run:
    steps = range(1, 41)
    return Run(
        seed=seed,
        fusion_lr=None if seed is None else 1e-5,
        head_lr=None if seed is None else 1e-3,
        num_epochs=None if seed is None else 14,
        best_epoch=None if seed is None else 9 + seed,
        valid_fmax=fmax + 0.03,
        threshold=0.31,
        fmax=fmax,
        fmax_threshold=0.27,
        precision=fmax + 0.02,
        recall=fmax - 0.02,
        aupr=aupr,
        f_at_threshold=fmax - 0.01,
        curve=PrCurve(
            recall=tuple(step / 40 for step in steps),
            precision=tuple(max(0.05, aupr * (1.6 - 1.2 * step / 40)) for step in steps),
        ),
    )


def make_row(name: str, runs: tuple[Run, ...], trials: tuple[TrialRecord, ...]) -> Row:
    return Row.model_validate(
        {
            "name": name,
            "meaning": f"what {name} means",
            "fmax": Summary.of([run.fmax for run in runs]),
            "aupr": Summary.of([run.aupr for run in runs]),
            "f_at_threshold": Summary.of([run.f_at_threshold for run in runs]),
            "trials": trials,
            "runs": runs,
        }
    )


@pytest.fixture
def make_report() -> Callable[..., Report]:
    def make(*, names: tuple[str, ...] = ("1ABC-A", "2XYZ-B"), task: str = "ec-class", path: str = "run") -> Report:
        trials = tuple(
            TrialRecord(fusion_lr=fusion, head_lr=head, valid_fmax=0.4 + head * 50, best_epoch=9, num_epochs=14)
            for fusion in (1e-5, 1e-4)
            for head in (1e-4, 1e-3)
        )
        split = SplitFacts(
            num_proteins=215,
            num_unlabelled=3,
            num_pairs=231,
            num_terms=7,
            num_unknown=544,
            num_without_sequence=0,
            num_without_structure=4,
            missing=names,
        )
        return Report(
            task=TaskFacts(
                name=task,
                num_terms=7,
                train=split,
                valid=split,
                test=split,
                ceiling=CeilingFacts(num_unseen_terms=1, num_unseen_pairs=2, fmax=0.98, aupr=0.97),
            ),
            config=FinetuneConfig(),
            inputs=Inputs(
                checkpoint_step=1234,
                checkpoint_sha256="ab" * 32,
                pretraining_stores=("cd" * 32,),
                store_root_hash="ef" * 32,
                labels_sha256="01" * 32,
                splits_sha256=dict.fromkeys(("train", "valid", "test"), "23" * 32),
                random_encoders=True,
            ),
            rows=(
                make_row("trained", tuple(make_run(seed, 0.47 + seed / 50, 0.43) for seed in range(3)), trials),
                make_row("untrained", tuple(make_run(seed, 0.43 + seed / 80, 0.38) for seed in range(3)), trials),
                make_row("label frequency", (make_run(None, 0.39, 0.24),), ()),
            ),
            leakage=Leakage(num_test=215, num_seen=len(names), seen=names),
            provenance=Provenance(
                finished="2026-11-21T15:00:00+00:00",
                seconds=61.5,
                versions={"python": "3.11.7", "torch": "2.13.0"},
                platform="Linux",
                device="cpu",
                threads=2,
                checkpoint=path,
                store="real.zarr",
                labels="ec.tsv",
                splits="real",
            ),
        )

    return make
