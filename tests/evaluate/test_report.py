import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest

from amma.evaluate.report.drawing import plotly_json
from amma.evaluate.report.estimates import Summary
from amma.evaluate.report.figures import pr_figure
from amma.evaluate.report.page import render_html
from amma.evaluate.report.results import Report
from amma.evaluate.report.shell import json_for_script
from amma.evaluate.report.summary import result_lines

MakeReport = Callable[..., Report]

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "<svg/onload=alert(1)>",
    "javascript:alert(1)",
    "<!--",
    "-->",
    "]]>",
    "</title><iframe src=//example.org>",
    "</style><link rel=stylesheet href=//example.org>",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "&lt;b&gt;",
    "\u2028\u2029\x00\u202e",
    "=HYPERLINK(1)",
)


class Page(HTMLParser):
    """Every element and attribute of a page, and the text of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.metas: list[dict[str, str | None]] = []
        self.text = ""
        self._open = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes.update(f"{tag}.{name}" for name, _ in attrs)
        self._open = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag == "meta":
            self.metas.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif self._open != "style":
            self.text += data


@pytest.fixture
def plotly_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real library is megabytes of text; one test looks at it, the others need not parse it."""
    monkeypatch.setattr("amma.evaluate.report.shell.get_plotlyjs", lambda: "const Plotly = {};")


@pytest.mark.usefixtures("plotly_is_short")
def test_hostile_ids_and_names_add_no_element_and_no_attribute(make_report: MakeReport) -> None:
    harmless = Page(render_html(make_report(names=tuple(f"P{n}" for n in range(len(HOSTILE))), task="plain")))
    hostile = Page(render_html(make_report(names=HOSTILE, task=HOSTILE[0], path=HOSTILE[2])))
    assert hostile.elements == harmless.elements
    assert hostile.attributes == harmless.attributes
    assert not any(name.split(".")[1].startswith("on") for name in hostile.attributes)
    for name in HOSTILE:
        if name.isprintable():
            assert name in hostile.text


def test_data_of_a_figure_cannot_end_its_element() -> None:
    text = str(json_for_script({"name": "</script><b>&amp;"}))
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"name": "</script><b>&amp;"}


def test_the_page_runs_its_own_scripts_and_loads_nothing(make_report: MakeReport) -> None:
    page = Page(render_html(make_report()))
    assert not {"link", "iframe", "img", "object", "embed", "base", "form"} & set(page.elements)
    assert not {"src", "href", "srcset", "action"} & {name.split(".")[1] for name in page.attributes}
    policy = next(meta["content"] for meta in page.metas if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    code = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    assert len(code) == 3  # tables and paper, plotly, and what calls it
    for text in code:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    data = [json.loads(text) for attributes, text in page.scripts if attributes.get("type") == "application/json"]
    assert [trace["name"] for trace in data[0]["data"] if trace["showlegend"]][-1].startswith("trained")


def test_the_pr_figure_is_valid_plotly_with_a_curve_for_every_seed(make_report: MakeReport) -> None:
    report = make_report()
    figure = pr_figure(report)
    drawn = plotly_json(figure)
    go.Figure(data=drawn["data"], layout=drawn["layout"])  # raises for a property plotly does not know
    assert len(figure.data) == 3 + 3 + 3 + 1 + 1
    assert {trace["legendgroup"] for trace in figure.data if trace["showlegend"]} == {
        "trained",
        "untrained",
        "pooled inputs",
        "nearest training sequence",
        "label frequency",
    }


@pytest.mark.usefixtures("plotly_is_short")
def test_the_page_says_what_a_reader_must_know(make_report: MakeReport) -> None:
    report = make_report()
    page = " ".join(Page(render_html(report)).text.split())
    assert "EC class: Fmax 0.490 ± 0.020, AUPR 0.430 ± 0.000" in page
    assert "0.470 ± 0.020" not in page
    assert "the 95 % interval of the mean over 1,000 resamples of the test split, in which 198 clusters" in page
    assert "0.490 ± 0.0200.420 – 0.530" in page  # the interval stands in a line of its own
    trained, frequency = report.row("trained"), report.row("label frequency")
    ways = (trained.fmax, trained.labelled_fmax, trained.fmax_torchdrug, trained.aupr, trained.labelled_aupr)
    assert " ".join(["trained", *(f"{each.mean:.3f} ± {each.sd:.3f}" for each in ways if each)]) in page
    assert f"label frequency 0.390 {frequency.labelled_fmax.mean:.3f} – 0.240" in page
    assert "Random encoders." in page
    assert "1 term of the test split does not occur in training (2 labels of 231)" in page
    assert "of which 3 have no label" in page
    assert "The sequences of 2 of 215 test proteins" in page
    assert "1 with their text, 1 without it. To keep them out" in page
    assert "Test proteins 31 2 with one that was seen with its text 7 not recorded" in page
    assert "those 1,234 of its 90,000 sequences that are in the evaluated store; the others may be nearer" in page
    assert "This is not the paper's protocol" in page


@pytest.mark.usefixtures("plotly_is_short")
def test_what_is_not_known_of_pretraining_is_said(make_report: MakeReport) -> None:
    report = make_report()
    near = report.leakage.by_identity.model_copy(update={"bins": (), "nearest": (), "num_at_hand": 0})
    old = {"num_seen_with_text": 0, "num_seen_without_text": 0, "num_seen_text_not_recorded": 2, "by_identity": near}
    unknown = report.model_copy(update={"leakage": report.leakage.model_copy(update=old)})
    page = " ".join(Page(render_html(unknown)).text.split())
    assert "whether with their text, this checkpoint did not record" in page
    assert "None of its 90,000 sequences is in the evaluated store" in page
    assert "at least" not in page.partition("Seen in pretraining")[2].partition("How the models were tuned")[0]
    lines = "\n".join(result_lines(unknown))
    assert "in pretraining: 2 of 215 (2 not recorded which)" in lines
    assert "nothing is known by identity: 0 of the 90000 sequences of pretraining are in this store" in lines
    assert "by identity to the nearest: 31 at >= 30%, 2 at >= 95% (ec-class; 1234 of the 90000" in "\n".join(
        result_lines(report)
    )


@pytest.mark.usefixtures("plotly_is_short")
def test_trained_encoders_get_no_warning(make_report: MakeReport) -> None:
    report = make_report()
    real = report.model_copy(update={"inputs": report.inputs.model_copy(update={"random_encoders": False})})
    assert "Random encoders" not in render_html(real)


@pytest.mark.usefixtures("plotly_is_short")
def test_a_report_read_back_from_its_json_gives_the_same_page(make_report: MakeReport) -> None:
    report = make_report()
    again = Report.model_validate(json.loads(json.dumps(report.model_dump(mode="json"))))
    assert again == report
    assert render_html(again) == render_html(report)


def test_one_seed_has_no_standard_deviation() -> None:
    assert Summary.of([0.5]).sd is None
    assert Summary.of([0.4, 0.6]).sd == pytest.approx(0.1414, abs=1e-4)


@pytest.mark.usefixtures("plotly_is_short")
def test_what_report_json_holds_of_terms_proteins_and_probabilities_is_on_the_page(make_report: MakeReport) -> None:
    report = make_report()
    page = " ".join(Page(render_html(report)).text.split())
    for term in report.terms:
        assert (f"{term.term}{term.name or ''} {term.num_train:,} {term.num_valid:,}" in page) == (term.num_test > 0)
    for record in (*report.extremes.best, *report.extremes.worst):
        assert f"{record.id} {record.num_residues:,} {record.identity:.2f} {record.f:.3f}" in page
        for scored in record.predicted:
            assert f"{scored.score:.3f}{' ✓' if scored.true else ''}" in page
    facts = report.calibration
    assert facts.runs
    for run in facts.runs:
        assert f"seed {run.seed}: " in page
    for before, after in ((facts.ece_before, facts.ece_after), (facts.brier_before, facts.brier_after)):
        assert f"{before.mean:.4f}" in page
        assert f"{after.mean:.4f}" in page
    for pair in report.paired:
        assert f"{pair.fmax.interval.low:.4f} – {pair.fmax.interval.high:.4f}" in page
        assert f"{pair.aupr.interval.low:.4f} – {pair.aupr.interval.high:.4f}" in page
    slices = (*report.identity.slices, *report.lengths)
    assert slices
    for each in slices:
        assert f" {each.num_proteins:,} {each.num_unlabelled:,} " in page


@pytest.mark.usefixtures("plotly_is_short")
def test_sections_of_an_analysis_are_shown_and_of_which_model_they_are_is_said(make_report: MakeReport) -> None:
    report = make_report()
    (one,) = report.included[:1]
    for changes, said in (
        ({"same_checkpoint": True}, None),
        ({"same_checkpoint": False}, "It is of another checkpoint than this report"),
        ({"checkpoint_sha256": None, "checkpoint_step": None, "same_checkpoint": False}, "It is of several models"),
    ):
        shown = report.model_copy(update={"included": (one.model_copy(update=changes),)})
        page = " ".join(Page(render_html(shown)).text.split())
        assert f"Analysis: {one.title} {one.lead}" in page
        assert all(section.heading in page for section in one.sections)
        warnings = ("It is of another checkpoint than this report", "It is of several models")
        assert [warning for warning in warnings if warning in page] == ([said] if said else [])


@pytest.mark.usefixtures("plotly_is_short")
def test_the_page_says_what_the_paired_tests_tell_apart(make_report: MakeReport) -> None:
    report = make_report()
    without = report.model_copy(update={"paired": ()})
    assert "nothing here says which of the differences could be chance" in " ".join(
        Page(render_html(without)).text.split()
    )
    sure = {"p_bootstrap": 0.002, "p_swap": 0.001}
    for difference, word in ((0.2, "better than"), (-0.2, "worse than")):
        pairs = tuple(
            pair.model_copy(
                update={
                    m: getattr(pair, m).model_copy(update={**sure, "difference": difference}) for m in ("fmax", "aupr")
                }
            )
            for pair in report.paired
        )
        page = " ".join(Page(render_html(report.model_copy(update={"paired": pairs}))).text.split())
        assert f"In Fmax and in AUPR, the trained model is {word} the same architecture without pretraining" in page
        assert "not to be told from" not in page
