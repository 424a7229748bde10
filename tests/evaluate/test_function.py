import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from amma.evaluate.function import Evaluation, evaluate_function
from amma.evaluate.metrics.exact import aupr, f_at, fmax
from amma.evaluate.metrics.torchdrug import aupr_torchdrug, fmax_torchdrug
from amma.evaluate.subject import open_subject
from amma.featurize.store.writer import write_store
from amma.manifests.errors import FingerprintError
from amma.manifests.table import Modality

FUSION = {"protocol": "fusion", "num_seeds": 2, "max_epochs": 5, "fusion_lrs": (2e-3,), "head_lrs": (1e-2,)}
PROBE = {"protocol": "probe", "num_seeds": 2, "readout": "first"}


def evaluate(planted, **finetune) -> Evaluation:
    config = planted.config(**finetune)
    return evaluate_function(config, open_subject(config), threads=1)


@pytest.fixture(scope="module")
def fusion(planted) -> Evaluation:
    return evaluate(planted, **FUSION)


@pytest.fixture(scope="module")
def probe(planted) -> Evaluation:
    return evaluate(planted, **PROBE)


def test_what_the_features_tell_is_learned_well_beyond_label_frequency(fusion: Evaluation) -> None:
    trained, frequency = fusion.report.row("trained"), fusion.report.row("label frequency")
    assert trained.fmax.mean > frequency.fmax.mean + 0.2
    assert trained.aupr.mean > frequency.aupr.mean + 0.3
    assert min(trained.f_at_threshold.values) > frequency.f_at_threshold.mean + 0.1


def test_a_probe_learns_too(probe: Evaluation) -> None:
    trained, frequency = probe.report.row("trained"), probe.report.row("label frequency")
    assert trained.aupr.mean > frequency.aupr.mean + 0.1


def test_figures_are_those_of_the_scores(fusion: Evaluation) -> None:
    row, task = fusion.report.row("trained"), fusion.task
    for run, scores in zip(row.runs, fusion.runs, strict=True):
        score_NK, target_NK = scores.test_NK.astype(np.float64), task.test.target_NK
        assert run.fmax == fmax(score_NK, target_NK).value
        assert run.aupr == aupr(score_NK, target_NK)
        as_tensors = torch.from_numpy(score_NK), torch.from_numpy(target_NK)
        assert run.fmax_torchdrug == fmax_torchdrug(*as_tensors) == pytest.approx(run.fmax, abs=0.01)
        assert run.aupr_torchdrug == aupr_torchdrug(*as_tensors) == pytest.approx(run.aupr, abs=0.01)
        threshold = fmax(scores.valid_VK.astype(np.float64), task.valid.target_NK).threshold
        assert run.threshold == threshold
        assert run.f_at_threshold == f_at(score_NK, target_NK, threshold) < run.fmax + 1e-12
    assert row.fmax.mean == pytest.approx(np.mean([run.fmax for run in row.runs]))
    assert row.fmax_torchdrug is not None
    assert row.fmax_torchdrug.values == tuple(run.fmax_torchdrug for run in row.runs)
    assert row.fmax.sd == pytest.approx(np.std([run.fmax for run in row.runs], ddof=1))


def test_the_area_under_a_drawn_curve_is_the_aupr(fusion: Evaluation) -> None:
    for row in fusion.report.rows:
        for run in row.runs:
            steps = np.diff(run.curve.recall, prepend=0.0)
            assert float((steps * np.array(run.curve.precision)).sum()) == pytest.approx(run.aupr, abs=1e-4)


def test_every_row_was_tuned_alike(fusion: Evaluation) -> None:
    trained, untrained = fusion.report.row("trained"), fusion.report.row("untrained")
    assert len(trained.runs) == len(untrained.runs) == 2
    assert [(t.fusion_lr, t.head_lr) for t in trained.trials] == [(t.fusion_lr, t.head_lr) for t in untrained.trials]
    assert fusion.report.row("label frequency").fmax.sd is None


def test_who_took_part_and_what_was_seen_is_reported(fusion: Evaluation) -> None:
    task = fusion.report.task
    assert (task.test.num_proteins, task.test.num_unlabelled, task.test.num_unknown) == (31, 1, 1)
    assert [absent.id for absent in task.test.missing] == ["absent"]
    assert task.test.num_without_structure == 4  # P133, P140, P147, P154
    assert task.ceiling.num_unseen_terms == task.ceiling.num_unseen_pairs == 1
    assert task.ceiling.fmax < 1
    leakage = fusion.report.leakage
    assert leakage.seen == ("P130",)
    assert (leakage.num_seen_with_text, leakage.num_seen_without_text, leakage.num_seen_text_not_recorded) == (1, 0, 0)
    assert (leakage.by_identity.num_seen_sequences, leakage.by_identity.num_at_hand) == (3, 3)
    assert leakage.by_identity.bins[-1].num >= 1  # P130 itself
    assert fusion.report.inputs.random_encoders


def test_the_parts_of_a_report_are_of_the_same_scores(fusion: Evaluation) -> None:
    report, task = fusion.report, fusion.task
    target_NK = task.test.target_NK
    trained, test = report.row("trained"), [run.test_NK for run in fusion.runs]
    labelled = target_NK.any(axis=1)
    assert trained.labelled_fmax.values == tuple(fmax(each[labelled], target_NK[labelled]).value for each in test)
    known = target_NK.any(axis=0)
    macro = [average_precision_score(target_NK[:, known], each[:, known], average="macro") for each in test]
    assert trained.macro_aupr.values == pytest.approx(macro)
    assert trained.num_macro_terms == known.sum() == 6
    precisions = [term.trained.average_precision for term in report.terms if term.num_test]
    assert trained.macro_aupr.mean == pytest.approx(np.mean(precisions), abs=1e-6)
    assert [term.term for term in report.terms] == list(task.terms)
    assert all(term.name and term.name_origin == "class of the EC number" for term in report.terms)
    assert [pair.against for pair in report.paired] == [row.name for row in report.rows[1:]]
    for pair in report.paired:
        other = report.row(pair.against)
        assert pair.fmax.difference == pytest.approx(trained.fmax.mean - other.fmax.mean, abs=1e-6)
        assert pair.aupr.difference == pytest.approx(trained.aupr.mean - other.aupr.mean, abs=1e-6)
    assert next(pair for pair in report.paired if pair.against == "label frequency").aupr.p_swap < 0.01
    assert [run.seed for run in report.calibration.runs] == [0, 1]
    assert {record.id for record in report.extremes.best + report.extremes.worst} <= set(task.test.ids)
    assert report.extremes.best[0].f > report.extremes.worst[0].f
    assert report.cafa is not None
    assert report.cafa.num_proteins == labelled.sum()
    assert all(row.cafa is not None for row in report.rows)


def test_slices_are_told_once_and_every_row_has_figures_of_each(fusion: Evaluation) -> None:
    report = fusion.report
    assert [each.below for each in report.identity.slices] == [0.3, 0.4, 0.5, 0.7, 0.95]
    assert [each.id for each in report.identity.nearest] == list(fusion.task.test.ids)
    for facts in report.identity.slices:
        assert facts.num_proteins == sum(each.identity < facts.below for each in report.identity.nearest)
    assert [(each.at_least, each.below, each.num_proteins) for each in report.lengths] == [(None, 100, 31)]
    for row in report.rows:
        assert len(row.by_identity) == 5
        assert row.by_length[0].fmax == row.fmax  # all are shorter than 100 residues
        assert row.by_length[0].aupr == row.aupr


def test_a_protein_without_features_is_named_with_the_reason(fusion: Evaluation) -> None:
    (absent,) = fusion.report.task.test.missing
    assert (absent.id, absent.code, absent.reason) == ("absent", "E_OUTSIDE", "not in the store's inputs")


def test_the_same_command_twice_gives_the_same_report_apart_from_its_provenance(
    planted, fusion: Evaluation, probe: Evaluation
) -> None:
    for first, settings in ((fusion, FUSION), (probe, PROBE)):
        again = evaluate(planted, **settings).report.model_dump(mode="json")
        once = first.report.model_dump(mode="json")
        once.pop("provenance")
        again.pop("provenance")
        assert once == again


def test_a_store_of_other_encoders_is_refused_with_the_fields_that_differ(planted, tmp_path: Path, proteins) -> None:
    write_store(
        tmp_path / "other.zarr",
        proteins,
        widths={Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6},
        fingerprint={"seq": {"encoder": "planted", "layer": 2}, "str": {"encoder": "planted"}},
        random_weights=True,
    )
    config = planted.config().model_copy(update={"store": str(tmp_path / "other.zarr")})
    with pytest.raises(FingerprintError, match=r"seq\.layer: 1 -> 2"):
        open_subject(config)


def test_paths_do_not_change_the_figures(planted, tmp_path: Path, probe: Evaluation) -> None:
    shutil.copytree(planted.store, tmp_path / "moved.zarr")
    config = planted.config(**PROBE)
    moved = config.model_copy(update={"store": str(tmp_path / "moved.zarr")})
    assert evaluate_function(moved, open_subject(moved), threads=1).report.rows == probe.report.rows


def test_the_controls_stand_beside_the_model_in_every_protocol(fusion: Evaluation, probe: Evaluation) -> None:
    for evaluation in (fusion, probe):
        rows = {row.name: row for row in evaluation.report.rows}
        assert list(rows) == ["trained", "untrained", "pooled inputs", "nearest training sequence", "label frequency"]
        assert [run.seed for run in rows["pooled inputs"].runs] == [0, 1]
        assert {trial.fusion_lr for trial in rows["pooled inputs"].trials} == {None}
        assert rows["nearest training sequence"].fmax.sd is None
    # The features tell the terms by construction, the random sequences do not.
    rows = {row.name: row for row in fusion.report.rows}
    assert rows["pooled inputs"].aupr.mean > rows["label frequency"].aupr.mean + 0.3
    assert rows["nearest training sequence"].aupr.mean < rows["pooled inputs"].aupr.mean - 0.3


def test_intervals_hold_the_figures_and_say_what_was_resampled(fusion: Evaluation) -> None:
    facts = fusion.report.intervals
    assert facts is not None
    assert (facts.num_resamples, facts.num_clusters, facts.largest_cluster) == (1000, 31, 1)
    assert facts.origin == "equal sequences"
    for row in fusion.report.rows:
        for summary, interval in ((row.fmax, row.fmax_interval), (row.aupr, row.aupr_interval)):
            assert interval is not None
            assert interval.low < summary.mean < interval.high


def test_a_cluster_table_changes_the_intervals_and_nothing_else(planted, tmp_path: Path, probe: Evaluation) -> None:
    table = tmp_path / "clusters.tsv"
    table.write_text("".join(f"P{n}\tfamily {n // 8}\n" for n in range(128, 156)))
    config = planted.config(**PROBE)
    clustered = config.model_copy(update={"clusters": str(table)})
    report = evaluate_function(clustered, open_subject(clustered), threads=1).report
    assert report.intervals is not None
    assert report.intervals.num_clusters == 4 + 3  # P156, P158 and P159 are not in it
    assert report.intervals.largest_cluster == 8
    assert report.intervals.clusters_sha256 is not None
    for row, before in zip(report.rows, probe.report.rows, strict=True):
        assert row.fmax_interval != before.fmax_interval
        assert row.runs == before.runs


def test_without_resamples_there_are_no_intervals(planted) -> None:
    config = planted.config(protocol="probe", max_epochs=1).model_copy(update={"bootstrap": 0})
    report = evaluate_function(config, open_subject(config), threads=1).report
    assert report.intervals is None
    assert report.paired == ()
    assert {row.fmax_interval for row in report.rows} | {row.aupr_interval for row in report.rows} == {None}


def test_attention_reads_the_models_out_and_not_the_pooled_inputs(planted) -> None:
    settings = {**PROBE, "readout": "attention", "max_epochs": 3}
    report = evaluate(planted, **settings).report
    mean = evaluate(planted, **settings | {"readout": "mean"}).report
    assert report.row("trained").runs != mean.row("trained").runs
    assert report.row("pooled inputs") == mean.row("pooled inputs")
    assert report.rows == evaluate(planted, **settings).report.rows
