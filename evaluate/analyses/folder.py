"""The folder of an analysis: `report.html`, `report.json`, `config.json`, and what else it has, such as Parquet tables.

`config.json` comes first and lists every file; the page comes last. So a folder with a page is whole, one without is
what was left of a command that died, and what is in no list is not ours and is never touched.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from amma.evaluate.analyses.report import Analysis
from amma.evaluate.report.document import render_document
from amma.manifests.errors import UsageError
from amma.manifests.files import (
    TEMPORARY_SUFFIX,
    aside_of,
    fsync_directory,
    write_atomically,
    write_json_atomically,
)

HTML, JSON, CONFIG = "report.html", "report.json", "config.json"
FORMAT = "amma-analysis-config"
Write = Callable[[Path], None]
"""Writes a whole file at a path."""


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise `UsageError` if `folder` cannot take an analysis.

    It cannot if it holds what no analysis lists, or a finished analysis that is not to be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; OUT is a folder that the analysis is written to.")
    held = _held(folder)
    strangers = sorted(held - _listed(folder))
    if strangers:
        raise UsageError(
            f"{folder} holds something that is not an analysis ({strangers[0]!r}); give a new folder, or an empty one."
        )
    if HTML in held and not overwrite:
        raise UsageError(f"{folder} already holds an analysis. Pass --overwrite to replace it, or give a new folder.")


def write_folder(folder: Path, report: Analysis, files: Mapping[str, Write] | None = None) -> Path:
    """Write an analysis and give the path of its page; an older one is removed first, never mixed with this one.

    `files` are what it has besides, by name (`vectors.parquet`, `structures/1ABC-A.cif`); each is handed a path to
    write to, and appears whole.
    """
    files = files or {}
    folder.mkdir(parents=True, exist_ok=True)
    _remove(folder)
    config = {
        "format": FORMAT,
        "analysis": report.analysis,
        "config": report.config,
        "files": sorted((HTML, JSON, CONFIG, *files)),
    }
    write_json_atomically(folder / CONFIG, config)
    for name, write in files.items():
        _write_whole(folder / name, write)
    write_json_atomically(folder / JSON, report.model_dump(mode="json"))
    write_atomically(folder / HTML, render_document(report.document()).encode())
    return folder / HTML


def _write_whole(path: Path, write: Write) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    write(aside)
    with aside.open("rb") as handle:
        os.fsync(handle.fileno())
    aside.replace(path)
    fsync_directory(path.parent)


def _remove(folder: Path) -> None:
    """Remove an older analysis, its page first and its list last; nothing that the list does not name."""
    listed = _listed(folder)
    names = [HTML, JSON, *sorted(listed - {HTML, JSON, CONFIG})]
    for name in (*names, CONFIG):
        (folder / name).unlink(missing_ok=True)
        aside_of(folder / name).unlink(missing_ok=True)
    for parent in sorted({str(PurePosixPath(name).parent) for name in names}, reverse=True):
        if parent != "." and (folder / parent).is_dir() and not any((folder / parent).iterdir()):
            (folder / parent).rmdir()


def _held(folder: Path) -> set[str]:
    """Every file below the folder, by its path in it, without what a crash left of one half written."""
    if not folder.is_dir():
        return set()
    paths = (path for path in folder.rglob("*") if not path.is_dir() and not path.name.endswith(TEMPORARY_SUFFIX))
    return {path.relative_to(folder).as_posix() for path in paths}


def _listed(folder: Path) -> set[str]:
    """The files that the list of an analysis in this folder names; none if there is no such list."""
    try:
        found: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            return set()
        names = {str(name) for name in found["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    # A list that was tampered with must not reach out of the folder.
    return {name for name in names if not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts}
