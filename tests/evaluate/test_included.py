import json
from pathlib import Path

import pytest

from amma.evaluate.report.included import read_included
from amma.evaluate.report.section import Column, Section, Table
from amma.manifests.errors import InputError
from amma.manifests.files import sha256_of_file

SECTION = Section(heading="What it shows", pieces=(Table(columns=(Column(title="a"),), rows=(("b",),)),))


def write(folder: Path, **changed: object) -> Path:
    folder.mkdir()
    values = {
        "format": "amma-analysis",
        "version": "1.3",
        "analysis": "tsne",
        "title": "Neighbours",
        "lead": "They are near.",
        "config": {"seed": 0},
        "inputs": {"checkpoint_step": 7, "checkpoint_sha256": "ab", "random_encoders": True, "store_root_hash": "cd"},
        "sections": [SECTION.model_dump(mode="json")],
        "results": {"of": "its own"},
        **changed,
    }
    (folder / "report.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_sections_are_taken_as_they_are_with_what_they_are_of(tmp_path: Path) -> None:
    folder = write(tmp_path / "tsne")
    included = read_included(folder, checkpoint_sha256="ab")
    assert included.sections == (SECTION,)
    assert (included.analysis, included.title, included.lead) == ("tsne", "Neighbours", "They are near.")
    assert (included.checkpoint_step, included.same_checkpoint, included.random_encoders) == (7, True, True)
    assert included.sha256 == sha256_of_file(folder / "report.json")


def test_an_analysis_of_another_checkpoint_is_taken_and_marked(tmp_path: Path) -> None:
    assert not read_included(write(tmp_path / "tsne"), checkpoint_sha256="ba").same_checkpoint


def test_an_analysis_of_several_models_is_of_no_one_checkpoint(tmp_path: Path) -> None:
    included = read_included(write(tmp_path / "a", inputs={"random_encoders": False}), checkpoint_sha256="ab")
    assert (included.checkpoint_step, included.checkpoint_sha256, included.same_checkpoint) == (None, None, False)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": "2.0"}, r"an analysis of version 2\.0, this program reads 1\.x"),
        ({"format": "amma-report"}, "not the report of an analysis"),
        ({"sections": [{"heading": 1}]}, "not the report of an analysis"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_its_path(tmp_path: Path, changed: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason) as error:
        read_included(write(tmp_path / "a", **changed), checkpoint_sha256="ab")
    assert str(tmp_path / "a" / "report.json") in str(error.value)


def test_a_folder_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report\.json: not there"):
        read_included(tmp_path, checkpoint_sha256="ab")
