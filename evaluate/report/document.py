"""`report.html` of an analysis: one file that needs no network, made from a `Document` and nothing else."""

from amma.evaluate.report.section import Document
from amma.evaluate.report.shell import pieces_of, render


def render_document(document: Document) -> str:
    """The whole page: tables that sort, figures drawn by plotly in the file; every text in it is text."""
    return render("document.html.j2", pieces_of(document.sections), document=document)
