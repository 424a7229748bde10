"""A report without a computation behind it, and a store whose features tell the labels, with a checkpoint for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amma.evaluate.config import FinetuneConfig, FunctionConfig, Unlabelled
from amma.evaluate.metrics.calibration import Calibration, Reliability, ReliabilityBin
from amma.evaluate.report.calibration_results import CalibrationFacts, CalibrationRun
from amma.evaluate.report.estimates import Difference, Interval, Summary
from amma.evaluate.report.included import Included
from amma.evaluate.report.pretraining_results import PretrainingFacts
from amma.evaluate.report.protein_results import Extremes, ProteinRecord, ScoredTerm
from amma.evaluate.report.results import (
    CafaFacts,
    CafaFigures,
    IdentityBin,
    Inputs,
    IntervalFacts,
    Leakage,
    NearestSeen,
    Paired,
    PrCurve,
    Provenance,
    Report,
    Row,
    Run,
    SeenByIdentity,
    TrialRecord,
)
from amma.evaluate.report.section import Column, Figure, Section, Table
from amma.evaluate.report.slice_results import IdentitySlices, NearestTraining, Slice, SliceFigures
from amma.evaluate.report.task_results import (
    AbsentProtein,
    AlternativeTerm,
    CeilingFacts,
    NameFacts,
    OntologyFacts,
    SplitFacts,
    TaskFacts,
)
from amma.evaluate.report.term_results import TermRecord, TermResult
from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.table import Modality
from amma.train.data.seen import WITH, WITHOUT, Seen
from amma.train.data.sequence_hash import sequence_hashes
from amma.train.model.amma import AMMA
from amma.train.model.config import MaskConfig, ModelConfig
from amma.train.model.standardise import Moments
from amma.train.run.checkpoint import Checkpoints, Snapshot


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
        fmax_torchdrug=None if seed is None else fmax + 0.001,
        aupr_torchdrug=aupr + 0.002,
        curve=PrCurve(
            recall=tuple(step / 40 for step in steps),
            precision=tuple(max(0.05, aupr * (1.6 - 1.2 * step / 40)) for step in steps),
        ),
    )


SLICES = ((None, 0.3), (None, 0.5), (None, 0.95))
LENGTHS = ((None, 100), (100, 300), (300, None))


def make_slices(bounds: tuple[tuple[float | None, float | None], ...]) -> tuple[Slice, ...]:
    """The first has no protein with a label."""
    return tuple(
        Slice(at_least=low, below=high, num_proteins=60 * place + 2, num_unlabelled=2)
        for place, (low, high) in enumerate(bounds)
    )


def make_slice_figures(runs: tuple[Run, ...], number: int) -> tuple[SliceFigures, ...]:
    figures = [
        SliceFigures(
            fmax=Summary.of([run.fmax * (0.8 + place / 10) for run in runs]),
            aupr=Summary.of([run.aupr * (0.8 + place / 10) for run in runs]),
        )
        for place in range(1, number)
    ]
    return (SliceFigures(fmax=None, aupr=None), *figures)


def make_terms(names: tuple[str, ...]) -> tuple[TermRecord, ...]:
    """A term for each name, named so; the first has no test protein, the last has no name."""
    nothing = TermResult(average_precision=None, fmax=None)
    return tuple(
        TermRecord(
            term=f"{name} (term)" if place else name,
            name=None if place == len(names) - 1 else f"what {name} is called",
            name_origin=None if place == len(names) - 1 else "label table",
            num_train=90 - place,
            num_valid=20,
            num_test=11 * place,
            trained=TermResult(average_precision=0.6, fmax=0.7) if place else nothing,
            untrained=TermResult(average_precision=0.5, fmax=0.6) if place else nothing,
            label_frequency=TermResult(average_precision=0.1, fmax=0.2) if place else nothing,
        )
        for place, name in enumerate(names)
    )


def make_reliability(shift: float) -> Reliability:
    """The last of four bins is empty."""
    bins = [
        ReliabilityBin(
            low=place / 4,
            high=(place + 1) / 4,
            count=0 if place == 3 else 1000 >> place,
            predicted=None if place == 3 else place / 4 + 0.1,
            observed=None if place == 3 else place / 4 + 0.1 + shift,
        )
        for place in range(4)
    ]
    return Reliability(bins=tuple(bins), num_pairs=1750, expected_error=shift, brier=0.05 + shift)


def make_calibration() -> CalibrationFacts:
    runs = [
        CalibrationRun(
            seed=seed,
            fitted=Calibration(slope=0.8, intercept=-0.1, num_pairs=1800, num_true=200),
            before=make_reliability(0.04),
            after=make_reliability(0.01),
        )
        for seed in range(3)
    ]
    return CalibrationFacts(
        ece_before=Summary.of([0.04] * 3),
        ece_after=Summary.of([0.01] * 3),
        brier_before=Summary.of([0.09] * 3),
        brier_after=Summary.of([0.06] * 3),
        runs=tuple(runs),
    )


def make_protein(identifier: str, f: float) -> ProteinRecord:
    return ProteinRecord(
        id=identifier,
        num_residues=321,
        identity=0.27,
        f=f,
        f_untrained=f / 2,
        true=(ScoredTerm(term=identifier, name=identifier, score=0.8, true=True),),
        predicted=(
            ScoredTerm(term=identifier, name=identifier, score=0.8, true=True),
            ScoredTerm(term="2.7.-.-", name=None, score=0.1, true=False),
        ),
    )


def make_included(text: str) -> Included:
    """An analysis in whose every place for a text there is `text`."""
    table = Table(columns=(Column(title=text), Column(title="value", decimals=3)), rows=((text, 0.5), ("-", None)))
    figure = Figure(data=({"type": "scatter", "x": [0, 1], "y": [0, 1], "name": "a line"},), caption=text)
    return Included(
        analysis="alignment",
        title=text,
        lead=text,
        sections=(Section(heading=text, paragraphs=(text,), pieces=(table, figure)),),
        checkpoint_step=1234,
        checkpoint_sha256="ab" * 32,
        same_checkpoint=True,
        random_encoders=True,
        sha256="45" * 32,
    )


def make_row(name: str, runs: tuple[Run, ...], trials: tuple[TrialRecord, ...]) -> Row:
    return Row.model_validate(
        {
            "name": name,
            "meaning": f"what {name} means",
            "fmax": Summary.of([run.fmax for run in runs]),
            "fmax_interval": {"low": runs[0].fmax - 0.05, "high": runs[0].fmax + 0.06},
            "aupr": Summary.of([run.aupr for run in runs]),
            "aupr_interval": {"low": runs[0].aupr - 0.07, "high": runs[0].aupr + 0.08},
            "f_at_threshold": Summary.of([run.f_at_threshold for run in runs]),
            "labelled_fmax": Summary.of([run.fmax + 0.004 for run in runs]),
            "labelled_aupr": Summary.of([run.aupr + 0.005 for run in runs]),
            "macro_aupr": Summary.of([run.aupr - 0.1 for run in runs]),
            "num_macro_terms": 6,
            "by_identity": make_slice_figures(runs, len(SLICES)),
            "by_length": make_slice_figures(runs, len(LENGTHS)),
            "cafa": CafaFigures(
                fmax=Summary.of([run.fmax + 0.06 for run in runs]),
                tau=Summary.of([0.3 for _ in runs]),
                weighted_fmax=Summary.of([run.fmax - 0.03 for run in runs]),
                s_min=Summary.of([3.5 for _ in runs]),
            ),
            "fmax_torchdrug": None if runs[0].seed is None else Summary.of([run.fmax + 0.001 for run in runs]),
            "aupr_torchdrug": Summary.of([run.aupr_torchdrug for run in runs]),
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
            missing=tuple(
                AbsentProtein(id=name, code="E_OUTSIDE" if place else "E_COORD", reason=f"what became of {name}")
                for place, name in enumerate(names)
            ),
        )
        return Report(
            task=TaskFacts(
                name=task,
                num_terms=7,
                unlabelled=Unlabelled.KEEP,
                train=split,
                valid=split,
                test=split,
                ceiling=CeilingFacts(num_unseen_terms=1, num_unseen_pairs=2, fmax=0.98, aupr=0.97),
                names=NameFacts(origins=((task, 6),), unnamed=names[-1:]),
                ontology=OntologyFacts(
                    kind=task,
                    data_version=task,
                    sha256="67" * 32,
                    namespace=task,
                    num_terms=40_000,
                    num_obsolete=12,
                    alternative=tuple(AlternativeTerm(term=name, primary=name, how="alt_id") for name in names),
                    unmatched=names,
                ),
            ),
            config=FinetuneConfig(),
            inputs=Inputs(
                checkpoint_step=1234,
                checkpoint_sha256="ab" * 32,
                pretraining_stores=("cd" * 32,),
                store_root_hash="ef" * 32,
                labels_sha256="01" * 32,
                splits_sha256=dict.fromkeys(("train", "valid", "test"), "23" * 32),
                term_names_sha256="89" * 32,
                random_encoders=True,
            ),
            pretraining=PretrainingFacts(
                family="asymmetric",
                recipe=None,
                alpha=(1.0, 2.0, 2.0),
                num_triplets=609,
                num_seq_str=89,
                num_seq_func=23,
                subset=None,
                epochs=4,
                epochs_done=3,
                seed=0,
                subset_seed=0,
                began_with=None,
                preset="tiny",
                num_parameters=1_372_000,
                encoders_sha256="ba" * 32,
                settings={"epochs": "4", "model.family": '"asymmetric"', "optimizer.lr": "0.001"},
            ),
            intervals=IntervalFacts(
                level=0.95,
                num_resamples=1000,
                num_clusters=198,
                largest_cluster=9,
                origin=task,
                clusters_sha256=None,
            ),
            rows=(
                make_row("trained", tuple(make_run(seed, 0.47 + seed / 50, 0.43) for seed in range(3)), trials),
                make_row("untrained", tuple(make_run(seed, 0.43 + seed / 80, 0.38) for seed in range(3)), trials),
                make_row("pooled inputs", tuple(make_run(seed, 0.42 + seed / 90, 0.37) for seed in range(3)), trials),
                make_row("nearest training sequence", (make_run(None, 0.41, 0.30),), ()),
                make_row("label frequency", (make_run(None, 0.39, 0.24),), ()),
            ),
            paired=tuple(
                Paired(
                    against=against,
                    fmax=Difference(
                        difference=0.04, interval=Interval(low=0.01, high=0.07), p_bootstrap=0.002, p_swap=0.01
                    ),
                    aupr=Difference(
                        difference=0.05, interval=Interval(low=-0.01, high=0.09), p_bootstrap=0.2, p_swap=0.3
                    ),
                )
                for against in ("untrained", "pooled inputs", "nearest training sequence", "label frequency")
            ),
            cafa=CafaFacts(tau_step=0.01, num_proteins=212, num_terms=33, num_informative=31),
            identity=IdentitySlices(
                method=task,
                slices=make_slices(SLICES),
                nearest_method=task,
                nearest=tuple(
                    NearestTraining(id=name, identity=0.4 if place else 0.0, training=name if place else None)
                    for place, name in enumerate(names)
                ),
            ),
            lengths=make_slices(LENGTHS),
            terms=make_terms(names),
            calibration=make_calibration(),
            extremes=Extremes(
                best=tuple(make_protein(name, 1.0) for name in names),
                worst=tuple(make_protein(name, 0.0) for name in names),
            ),
            included=(make_included(path),),
            leakage=Leakage(
                num_test=215,
                num_seen=len(names),
                num_seen_with_text=1,
                num_seen_without_text=len(names) - 1,
                num_seen_text_not_recorded=0,
                seen=names,
                by_identity=SeenByIdentity(
                    method=task,
                    num_seen_sequences=90_000,
                    num_at_hand=1_234,
                    bins=(
                        IdentityBin(at_least=0.3, num=31, num_with_text=7),
                        IdentityBin(at_least=0.95, num=len(names), num_with_text=None),
                    ),
                    nearest=tuple(NearestSeen(id=name, identity=1.0, seen=name) for name in names),
                ),
            ),
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
                ontology=path,
                included=(path,),
            ),
        )

    return make


@dataclass(frozen=True)
class Planted:
    """A store whose features tell each protein's terms, and everything an evaluation of it needs on disk."""

    store: Path
    labels: Path
    splits: Path
    run: Path

    def config(self, task: str = "ec", **finetune: Any) -> FunctionConfig:
        values = {"head_lrs": (3e-3,), "num_seeds": 1, "max_epochs": 12, "patience": 4, **finetune}
        if values.get("protocol") != "probe":
            values = {"fusion_lrs": (1e-3,), **values}
        return FunctionConfig.parse(
            {
                "checkpoint": str(self.run),
                "store": str(self.store),
                "labels": str(self.labels),
                "splits": str(self.splits),
                "task": task,
                "finetune": values,
            },
            source="test",
        )


TERMS = ("1.1.1.1", "1.1.1.2", "2.7.1.-", "3.4.21.4", "5.3.1.9")
SEEN_ONLY_IN_TEST = "6.1.1.1"


def planted_proteins(rng: np.random.Generator, number: int) -> Iterator[tuple[ProteinArrays, list[str]]]:
    """Each protein has one or two terms; each term shifts the features of sequence and structure its own way."""
    direction = {modality: rng.normal(size=(len(TERMS), width)) for modality, width in PLANTED_WIDTHS.items()}
    for n in range(number):
        chosen = rng.choice(len(TERMS), size=1 + (n % 3 == 0), replace=False)
        length = int(rng.integers(4, 13))
        structured = np.flatnonzero(rng.random(length) < 0.9).astype(np.int32)
        features = {
            modality: Encoded(
                (rng.normal(size=(rows, width)) + direction[modality][chosen].sum(axis=0)).astype(np.float32),
                index,
                None if modality is Modality.STR else np.zeros(width, np.float32),
            )
            for modality, width, rows, index in (
                (Modality.SEQ, PLANTED_WIDTHS[Modality.SEQ], length, None),
                (Modality.STR, PLANTED_WIDTHS[Modality.STR], len(structured), structured),
                (Modality.FUNC, PLANTED_WIDTHS[Modality.FUNC], 3, np.zeros(3, np.int32)),
            )
            if not (modality is Modality.STR and (n % 7 == 0 or not len(structured)))  # some have no structure
        }
        sequence = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), size=length))
        yield ProteinArrays(f"P{n:03d}", sequence, features), [TERMS[term] for term in chosen]


PLANTED_WIDTHS = {Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6}
PLANTED_MODEL = ModelConfig(
    width=16, ffn=32, num_fusion_layers=2, num_heads=2, decoder_width=16, decoder_ffn=32, num_decoder_heads=2
)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """160 proteins: 96 train, 32 valid, 32 test. The last test protein has a term of its own, one has no label, one
    is outside the label table, and one is labelled but not in the store."""
    folder = tmp_path_factory.mktemp("planted")
    proteins = list(planted_proteins(np.random.default_rng(0), 160))
    write_store(
        folder / "store.zarr",
        [arrays for arrays, _ in proteins],
        widths=PLANTED_WIDTHS,
        fingerprint={"seq": {"encoder": "planted", "layer": 1}, "str": {"encoder": "planted"}},
        random_weights=True,
    )
    terms = {arrays.id: list(of) for arrays, of in proteins}
    terms["P159"].append(SEEN_ONLY_IN_TEST)
    terms["P158"] = []
    del terms["P157"]
    terms["absent"] = [TERMS[0]]
    rows = [f"{name}\t{','.join(of)}\t{','.join(sorted({term[0] for term in of}))}" for name, of in terms.items()]
    (folder / "ec.tsv").write_text("\n".join(["id\tec\tec_class", *rows]) + "\n")
    ids = [arrays.id for arrays, _ in proteins]
    (folder / "splits").mkdir()
    for name, members in {"train": ids[:96], "valid": ids[96:128], "test": [*ids[128:], "absent"]}.items():
        (folder / "splits" / f"{name}.txt").write_text("\n".join(members) + "\n")
    return Planted(folder / "store.zarr", folder / "ec.tsv", folder / "splits", write_run(folder))


@pytest.fixture
def proteins() -> list[ProteinArrays]:
    """Some proteins for another store."""
    return [arrays for arrays, _ in planted_proteins(np.random.default_rng(1), 4)]


def write_run(folder: Path) -> Path:
    """A run folder with one checkpoint: seeded weights, and the standardisation of the whole store."""
    torch.manual_seed(7)
    model = AMMA(PLANTED_MODEL, PLANTED_WIDTHS)
    with FeatureStore(folder / "store.zarr") as store:
        for modality, width in PLANTED_WIDTHS.items():
            moments = Moments(width)
            for protein in np.flatnonzero(store.present(modality)):
                moments.update(store.read(modality, int(protein)).features)
            model.standardiser.fit(modality, moments)
        sequences = store.sequences()
        hashes = sequence_hashes(sequences[store.row_of(f"P{n:03d}")] for n in (0, 1, 130))
        state = {
            "step": 12,
            "config": {
                "model": PLANTED_MODEL.model_dump(mode="json"),
                "mask": MaskConfig(visible_tokens=9).model_dump(mode="json"),
                "optimizer": {"lr": 1e-3},
                "epochs": 4,
                "seed": 7,
                "device": "cpu",
            },
            "epoch": 3,
            "proteins": {"streams": {"triplet": 137, "seq-func": 23}},
            "widths": {str(modality): width for modality, width in PLANTED_WIDTHS.items()},
            "inputs": {"fingerprint": store.fingerprint, "root_hashes": [store.root_hash]},
            "random_weights": True,
        }
    run = folder / "run"
    run.mkdir()
    Seen.of(hashes, np.array([WITH, WITHOUT, WITH], dtype=np.uint8)).write(run / "seen.safetensors")
    snapshot = Snapshot(state, {name: value.contiguous() for name, value in model.state_dict().items()}, {})
    Checkpoints(run).save(snapshot, seen=run / "seen.safetensors", best=True)
    return run
