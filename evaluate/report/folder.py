"""The folder of a report: `report.html`, `report.json`, `config.json`, `predictor/`, and predictions in two formats.

`predictions.parquet` has the scores of every seed; `predictions.cafa.tsv` what a predictor says of the test proteins,
the mean over seeds of calibrated probabilities, in the format of CAFA's submissions.
"""

import shutil
from pathlib import Path

from amma.evaluate.config import FunctionConfig
from amma.evaluate.function import Evaluation, prediction_blocks
from amma.evaluate.predictor.folder import FOLDER as PREDICTOR
from amma.evaluate.predictor.saving import PredictorWriter, mean_probability
from amma.evaluate.report.cafa_export import write_cafa
from amma.evaluate.report.page import render_html
from amma.evaluate.report.predictions import write_predictions
from amma.evaluate.tuning.kept import FOLDER as TUNINGS
from amma.manifests.console import say
from amma.manifests.errors import InputError, UsageError
from amma.manifests.files import TEMPORARY_SUFFIX, write_atomically, write_json_atomically

HTML, JSON, PREDICTIONS, CONFIG = "report.html", "report.json", "predictions.parquet", "config.json"
CAFA = "predictions.cafa.tsv"
FILES = (HTML, JSON, PREDICTIONS, CAFA, CONFIG)


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise `UsageError` if `folder` cannot take a report: it holds something, and is not a report to overwrite."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; REPORT_DIR is a folder that the report is written to.")
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    held = {name for name in held if not name.endswith(TEMPORARY_SUFFIX)}
    strangers = sorted(held - {*FILES, PREDICTOR, TUNINGS})
    if strangers:
        raise UsageError(
            f"{folder} holds something that is not a report ({strangers[0]!r}); give a new folder, or an empty one."
        )
    # The page is written last: tunings beside anything less are those of an evaluation that goes on.
    if held - {TUNINGS} and not overwrite and not (TUNINGS in held and HTML not in held):
        raise UsageError(f"{folder} already holds a report. Pass --overwrite to replace it, or give a new folder.")


def write_folder(
    folder: Path, evaluation: Evaluation, config: FunctionConfig, predictor: PredictorWriter | None = None
) -> Path:
    """Write everything, the page last; gives its path. An older report is removed first, never mixed with this one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in reversed(FILES):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / PREDICTOR, ignore_errors=True)
    write_json_atomically(folder / CONFIG, config.model_dump(mode="json"))
    _write_cafa(folder / CAFA, evaluation)
    names = {each.term: each.name for each in evaluation.report.terms if each.name}
    write_predictions(folder / PREDICTIONS, evaluation.task.terms, names, prediction_blocks(evaluation))
    write_json_atomically(folder / JSON, evaluation.report.model_dump(mode="json"))
    if predictor is not None:
        predictor.finish(evaluation.runs, evaluation.report.inputs, names)
    write_atomically(folder / HTML, render_html(evaluation.report).encode())
    return folder / HTML


def _write_cafa(path: Path, evaluation: Evaluation) -> None:
    """What the format cannot hold is told: it is one of several files, and the figures do not depend on it."""
    lines = [run.fitted for run in evaluation.report.calibration.runs]
    score_NK = mean_probability(lines, [run.test_NK for run in evaluation.runs])
    try:
        written = write_cafa(path, evaluation.task.test.ids, evaluation.task.terms, score_NK)
    except InputError as error:
        say(f"{path.name} is not written: {error}")
        return
    for rejection in written.rejections:
        say(f"{path.name} is without {rejection.id!r}: {rejection.reason}")
