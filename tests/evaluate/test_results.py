import json
from collections.abc import Callable
from pathlib import Path

import pytest

from amma.evaluate.report.results import FORMAT_VERSION, Report, read_report
from amma.manifests.errors import InputError


def write(folder: Path, values: dict[str, object]) -> Path:
    path = folder / "report.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_a_report_is_read_back_as_it_was_written(make_report: Callable[..., Report], tmp_path: Path) -> None:
    report = make_report()
    assert read_report(write(tmp_path, report.model_dump(mode="json"))) == report


def test_a_report_of_version_2_0_is_read_without_facts_of_pretraining(
    make_report: Callable[..., Report], tmp_path: Path
) -> None:
    values = make_report().model_dump(mode="json") | {"version": "2.0"}
    del values["pretraining"]
    assert read_report(write(tmp_path, values)).pretraining is None


@pytest.mark.parametrize("version", ["1.2", "3.0"])
def test_a_report_of_another_major_version_is_refused_by_its_version(
    make_report: Callable[..., Report], tmp_path: Path, version: str
) -> None:
    path = write(tmp_path, make_report().model_dump(mode="json") | {"version": version, "of another time": 1})
    with pytest.raises(InputError, match=rf"version {version}, this program reads amma-report {FORMAT_VERSION}"):
        read_report(path)


def test_what_is_no_report_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no report there"):
        read_report(tmp_path / "report.json")
    with pytest.raises(InputError, match="not a report"):
        read_report(write(tmp_path, {"rows": []}))
    with pytest.raises(InputError, match=r"amma-analysis of version 2\.0"):
        read_report(write(tmp_path, {"format": "amma-analysis", "version": "2.0"}))
