"""The folder of a comparison: `compare.json`, and `compare.html`, which is drawn from it and written last."""

from pathlib import Path

from amma.evaluate.comparison.page import document_of
from amma.evaluate.comparison.results import Comparison
from amma.evaluate.report.document import render_document
from amma.manifests.errors import UsageError
from amma.manifests.files import TEMPORARY_SUFFIX, write_atomically, write_json_atomically

HTML, JSON = "compare.html", "compare.json"


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raise `UsageError` if `out` holds something, unless it is a comparison to overwrite."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; OUT is a folder that the comparison is written to.")
    held = {path.name for path in out.iterdir()} if out.exists() else set()
    held = {name for name in held if not name.endswith(TEMPORARY_SUFFIX)}
    strangers = sorted(held - {HTML, JSON})
    if strangers:
        raise UsageError(f"{out} holds something else than a comparison ({strangers[0]!r}); give a new folder.")
    if held and not overwrite:
        raise UsageError(f"{out} already holds a comparison. Pass --overwrite to replace it, or give a new folder.")


def write_comparison(out: Path, found: Comparison) -> Path:
    """Write both files and give the path of the page."""
    out.mkdir(parents=True, exist_ok=True)
    page = render_document(document_of(found)).encode()
    (out / HTML).unlink(missing_ok=True)
    write_json_atomically(out / JSON, found.model_dump(mode="json"))
    write_atomically(out / HTML, page)
    return out / HTML
