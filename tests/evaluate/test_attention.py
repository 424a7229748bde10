import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import gemmi
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner, Result

from amma.evaluate.analyses.attention import other_names
from amma.evaluate.analyses.attention_rankings import ranking_rows
from amma.evaluate.analyses.attention_results import AttentionReport
from amma.evaluate.analyses.residue_ranking import Ranking, rank_residues
from amma.evaluate.analyses.subject import open_analysis
from amma.evaluate.cli import app
from amma.evaluate.metrics.bootstrap import draw_resamples
from amma.evaluate.report.included import read_included
from amma.evaluate.report.section import Figure, Table
from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.build import build_manifest
from amma.manifests.errors import AmmaError, InputError, UsageError
from amma.manifests.quarantine import read_quarantine
from amma.manifests.sites import read_sites
from amma.manifests.table import Manifest, Modality, write_manifest
from amma.manifests.toy import write_toy
from amma.train.data.seen import WITH, Seen
from amma.train.data.sequence_hash import sequence_hashes
from amma.train.model.amma import AMMA
from amma.train.model.config import MaskConfig, ModelConfig
from amma.train.model.standardise import Moments
from amma.train.run.checkpoint import Checkpoints, Snapshot

SEQ, STR, FUNC = Modality
WIDTHS = {SEQ: 8, STR: 6, FUNC: 4}
MODEL = ModelConfig(
    width=16, ffn=32, num_fusion_layers=1, num_heads=2, decoder_width=16, decoder_ffn=32, num_decoder_heads=2
)
QUICK = ("--untrained-seeds=2", "--bootstrap=40", "--threads=1", "--device=cpu", "--shown=2")
HOSTILE = "../<img src=x onerror=alert(1)>{{7*7}}"
MARK = 0
"""The feature of a sequence token that tells a planted site."""


@dataclass(frozen=True)
class Toy:
    """A toy proteome whose store marks the planted sites, and a model whose names look for the mark."""

    store: Path
    run: Path
    manifest: Path
    sites: Path
    ids: tuple[str, ...]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """The first protein has a hostile id, the second has no name; the last two were seen in pretraining."""
    folder = tmp_path_factory.mktemp("attention")
    write_toy(folder / "toy", proteins=24, seed=2)
    build_manifest(
        sequences=folder / "toy" / "sequences.fasta",
        structures=folder / "toy" / "structures",
        descriptions=folder / "toy" / "descriptions.tsv",
        out=folder / "m.parquet",
    )
    rows = [row for row in Manifest(folder / "m.parquet") if row.kind == "triplet"]
    table = (folder / "toy" / "sites.tsv").read_text().replace(rows[0].id, HOSTILE)
    (folder / "toy" / "sites.tsv").write_text(table)
    rows[0] = replace(rows[0], id=HOSTILE, chain="A")
    write_manifest(folder / "m.parquet", rows)
    sites = read_sites(folder / "toy" / "sites.tsv").residues()
    rng = np.random.default_rng(0)
    arrays = []
    for n, row in enumerate(rows):
        length = len(row.sequence)
        marked = 0.3 * rng.normal(size=(length, WIDTHS[SEQ])).astype(np.float32)
        marked[:, MARK] = 0
        marked[sites[row.id], MARK] = 3
        resolved = np.array([i for i in range(length) if i not in row.unresolved], np.int32)
        field = np.array([1, 1] if n == 1 else [0, 0, 1], np.int32)
        text = rng.normal(size=(len(field), WIDTHS[FUNC])).astype(np.float32)
        features = {
            SEQ: Encoded(marked, None, np.zeros(WIDTHS[SEQ], np.float32)),
            STR: Encoded(rng.normal(size=(len(resolved), WIDTHS[STR])).astype(np.float32), resolved, None),
            FUNC: Encoded(text, field, np.zeros(WIDTHS[FUNC], np.float32)),
        }
        arrays.append(ProteinArrays(row.id, row.sequence, features))
    write_store(
        folder / "store.zarr", arrays, widths=WIDTHS, fingerprint={"seq": {"encoder": "toy"}}, random_weights=True
    )
    return Toy(
        folder / "store.zarr",
        write_run(folder, seen=[row.sequence for row in rows[-2:]]),
        folder / "m.parquet",
        folder / "toy" / "sites.tsv",
        tuple(row.id for row in rows),
    )


def write_run(folder: Path, seen: list[str]) -> Path:
    """A checkpoint whose last layer's queries of text ask for the mark, with all else as it was drawn."""
    torch.manual_seed(1)
    model = AMMA(MODEL, WIDTHS)
    with FeatureStore(folder / "store.zarr") as store:
        for modality, width in WIDTHS.items():
            moments = Moments(width)
            for protein in range(store.num_proteins):
                moments.update(store.read(modality, protein).features)
            model.standardiser.fit(modality, moments)
        plant(model)
        state = {
            "step": 1,
            "config": {
                "model": MODEL.model_dump(mode="json"),
                "mask": MaskConfig(visible_tokens=9).model_dump(mode="json"),
            },
            "widths": {str(modality): width for modality, width in WIDTHS.items()},
            "inputs": {"fingerprint": store.fingerprint, "root_hashes": [store.root_hash]},
            "random_weights": True,
        }
    run = folder / "run"
    run.mkdir()
    hashes = sequence_hashes(seen)
    Seen.of(hashes, np.full(len(hashes), WITH, dtype=np.uint8)).write(run / "seen.safetensors")
    snapshot = Snapshot(state, {name: value.contiguous() for name, value in model.state_dict().items()}, {})
    Checkpoints(run).save(snapshot, seen=run / "seen.safetensors", best=True)
    return run


def plant(model: AMMA) -> None:
    """Carry the mark to a channel of the tokens, and let every query ask for that channel."""
    with torch.no_grad():
        first, second = (m for m in model.projections[SEQ].modules() if isinstance(m, torch.nn.Linear))
        first.weight[0] = 0
        first.weight[0, MARK] = 1
        first.bias[0] = 0
        second.weight[0] = 0
        second.weight[0, 0] = 5
        attention = model.encoder.layers[-1].attention
        width = MODEL.width
        attention.query_key_value.weight[: 2 * width] = 0
        attention.query_key_value.bias[: 2 * width] = 0
        for head in range(MODEL.num_heads):
            channel = head * attention.head_width
            attention.query_key_value.bias[channel] = 4  # what is asked for …
            attention.query_key_value.weight[width + channel, 0] = 3  # … and what answers


def call(toy: Toy, out: Path, *options: str, **changed: Path | str) -> Result:
    paths = {"run": toy.run, "store": toy.store, **changed}
    return CliRunner().invoke(app, ["attention", str(paths["run"]), str(paths["store"]), str(out), *options])


@pytest.fixture(scope="module")
def written(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("written") / "out"
    return out, call(toy, out, f"--sites={toy.sites}", f"--manifest={toy.manifest}", *QUICK)


@pytest.fixture(scope="module")
def report(written: tuple[Path, Result]) -> AttentionReport:
    assert written[1].exit_code == 0, written[1].output
    return AttentionReport.model_validate_json((written[0] / "report.json").read_text())


def test_planted_attention_finds_planted_sites_and_controls_do_not(report: AttentionReport) -> None:
    trained, untrained = (report.results.row(of).precision.value.mean for of in ("trained", "untrained"))
    assert trained > 0.95
    assert untrained < 0.6
    assert report.results.row("position only").precision.value.mean < 0.6
    assert report.results.row("trained").auroc.value.mean > 0.99
    margin = report.results.row("untrained").trained_minus["precision"]
    assert margin.interval is not None
    assert 0 < margin.interval.low <= margin.difference == pytest.approx(trained - untrained)
    chance = report.results.row("chance")
    assert chance.precision.value.mean == pytest.approx(report.results.chance)
    assert chance.trained_minus["precision"].difference == pytest.approx(trained - report.results.chance)
    assert "above untrained, position only, chance, and not above shuffled pairs" in report.lead
    # Whoever asks, the planted model finds the mark: the shuffled row says that names had no part in it.
    assert report.results.row("shuffled pairs").precision.value.mean == pytest.approx(trained, abs=0.05)
    shuffled = report.results.focus_of("shuffled pairs").like_trained
    assert shuffled is not None
    assert shuffled.mean > 0.99


def test_figures_follow_from_the_table_that_is_kept(
    written: tuple[Path, Result], report: AttentionReport, toy: Toy
) -> None:
    rows = pq.read_table(written[0] / "attention.parquet").to_pandas()
    sites = read_sites(toy.sites).residues()
    precision = []
    for id, of in rows.groupby("id"):
        assert of.residue.tolist() == list(range(1, len(of) + 1))
        assert of[of.annotated].residue.tolist() == (sites[id] + 1).tolist()
        precision.append(rank_residues(of.trained.to_numpy(), of.annotated.to_numpy()).precision)
    assert fmean(precision) == pytest.approx(report.results.row("trained").precision.value.mean, abs=0.02)
    assert set(rows.id) == {of.id for of in report.results.proteins}
    sequences = {row.id: row.sequence for row in Manifest(toy.manifest)}
    assert all("".join(of.letter) == sequences[id] for id, of in rows.groupby("id"))


def test_who_was_seen_or_has_no_name_is_left_out_and_said(report: AttentionReport, toy: Toy) -> None:
    looked_at = {of.id for of in report.results.proteins}
    assert looked_at == set(toy.ids) - {toy.ids[1], *toy.ids[-2:]}
    assert [(each.id, each.code) for each in report.results.left_out] == [(toy.ids[1], "no name")]
    assert report.proteins is not None
    assert report.proteins.num_seen == 2


def test_structures_of_the_shown_have_the_attention_as_b_factors(
    written: tuple[Path, Result], report: AttentionReport
) -> None:
    rows = pq.read_table(written[0] / "attention.parquet").to_pandas()
    shown = [of for of in report.results.proteins if of.structure is not None]
    assert [of.id for of in shown if of.id in report.results.shown] == [of.id for of in shown]
    assert len(shown) == 2
    for of in shown:
        assert of.structure is not None
        model = gemmi.read_structure(str(written[0] / of.structure))[0]
        expected = rows[rows.id == of.id].trained.to_numpy()
        for residue in model[0]:
            if residue.find_atom("CA", "*"):
                value = 100 * expected[residue.seqid.num - 1] / expected.max()
                assert residue[0].b_iso == pytest.approx(value, abs=0.02)
    assert read_quarantine(written[0] / "quarantine.jsonl") == []


def test_the_page_draws_the_chain_and_the_trace_beside_the_untrained(
    written: tuple[Path, Result], report: AttentionReport
) -> None:
    page = (written[0] / "report.html").read_text()
    for id in report.results.shown:
        section = next(section for section in report.sections if section.heading == id)
        chain, space, table = section.pieces
        assert isinstance(chain, Figure)
        assert [each["name"] for each in chain.data] == ["shuffled pairs", "untrained", "trained", "annotated"]
        assert isinstance(space, Figure)
        assert [(each["type"], each["name"], each["scene"]) for each in space.data] == [
            ("scatter3d", name, scene)
            for of, scene in (("trained", "scene"), ("untrained", "scene2"))
            for name in (of, "annotated")
        ]
        assert isinstance(table, Table)
        assert {row[-1] for row in table.rows} <= {"yes", "–"}
    assert "never those that went best" in " ".join(page.split())
    lines = written[1].stdout.splitlines()
    assert lines[0].startswith("random encoders")
    (line,) = (line for line in lines if line.startswith("trained") and line.count(".") == 3)
    assert line.split()[1] == f"{report.results.row('trained').precision.value.mean:.3f}"


def test_the_same_command_gives_the_same_report_apart_from_provenance(
    toy: Toy, written: tuple[Path, Result], tmp_path: Path
) -> None:
    again = call(toy, tmp_path / "again", f"--sites={toy.sites}", f"--manifest={toy.manifest}", *QUICK)
    assert again.exit_code == 0, again.output
    first, second = (json.loads((folder / "report.json").read_text()) for folder in (written[0], tmp_path / "again"))
    assert first.pop("provenance") != second.pop("provenance")
    assert first == second
    for name in ("attention.parquet", *(of["structure"] for of in first["results"]["proteins"] if of["structure"])):
        assert (written[0] / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_store_of_other_sequences_leaves_a_structure_out_and_goes_on(toy: Toy, tmp_path: Path) -> None:
    write_toy(tmp_path / "toy", proteins=24, seed=3)
    build_manifest(
        sequences=tmp_path / "toy" / "sequences.fasta",
        structures=tmp_path / "toy" / "structures",
        descriptions=None,
        out=tmp_path / "other.parquet",
    )
    result = call(toy, tmp_path / "out", f"--manifest={tmp_path / 'other.parquet'}", *QUICK)
    assert result.exit_code == 0, result.output
    rejections = read_quarantine(tmp_path / "out" / "quarantine.jsonl")
    assert [each.code for each in rejections] == ["E_MISMATCH"] * 2
    assert "E_MISMATCH" in result.stdout
    assert not (tmp_path / "out" / "structures").exists()


def test_without_sites_attention_alone_is_shown_and_said(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text(f"{toy.ids[3]}\n{toy.ids[0]}\n")
    result = call(toy, tmp_path / "out", f"--ids={tmp_path / 'ids.txt'}", "--top=3", "--residue-tokens=seq", *QUICK)
    assert result.exit_code == 0, result.output
    assert "no table of sites" in result.stdout
    report = AttentionReport.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert (report.results.rows, report.results.chance, report.results.sites) == ((), None, None)
    assert report.results.shown == (toy.ids[3], toy.ids[0])
    assert "cannot say whether it finds" in report.lead
    section = next(section for section in report.sections if section.heading == toy.ids[3])
    assert len(section.pieces[-1].rows) == 3
    assert report.results.num_shuffles == 1
    rows = pq.read_table(tmp_path / "out" / "attention.parquet").to_pandas()
    assert rows.annotated.isna().all()


@pytest.fixture(scope="module")
def hostile(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An analysis that shows the protein with a hostile id first."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "ids.txt").write_text("\n".join([HOSTILE, *toy.ids[2:6]]) + "\n")
    options = (f"--ids={folder / 'ids.txt'}", f"--sites={toy.sites}", f"--manifest={toy.manifest}")
    result = call(toy, folder / "out", *options, *QUICK)
    assert result.exit_code == 0, result.output
    return folder / "out"


def test_a_hostile_id_is_text_on_the_page_and_a_file_in_its_folder(hostile: Path) -> None:
    report = AttentionReport.model_validate_json((hostile / "report.json").read_text())
    assert report.results.shown[0] == HOSTILE
    page = (hostile / "report.html").read_text()
    assert "&lt;img src=x onerror=alert(1)&gt;{{7*7}}" in page
    assert "<img src=x" not in page
    (file,) = (of.structure for of in report.results.proteins if of.id == HOSTILE)
    assert file == "structures/%2E.%2F%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%7B%7B7%2A7%7D%7D.cif"
    assert {path.parent.name for path in hostile.rglob("*.cif")} == {"structures"}
    assert read_included(hostile, checkpoint_sha256="0").sections == report.sections


@pytest.mark.slow
def test_a_browser_draws_the_traces_without_a_request_or_an_error(hostile: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on the PATH")
    playwright = pytest.importorskip("playwright.sync_api")
    requests, errors, dialogs = [], [], []
    software = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=chromium, args=software)
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto((hostile / "report.html").as_uri())
        page.wait_for_selector(".gl-container canvas", state="attached")
        page.wait_for_timeout(3000)
        scenes = page.locator(".gl-container > div")
        assert scenes.count() == 4  # two proteins, trained and untrained
        drawn = scenes.first.screenshot()
        assert page.locator("img").count() == 0
        browser.close()
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [(hostile / "report.html").as_uri()]
    assert (errors, dialogs) == ([], [])
    assert len(drawn) > 5000  # a blank picture packs to less


def test_only_sites_of_the_kinds_count(toy: Toy, tmp_path: Path) -> None:
    result = call(toy, tmp_path / "out", f"--sites={toy.sites}", "--kind=ACT_SITE", *QUICK)
    assert result.exit_code == 0, result.output
    report = AttentionReport.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert {of.num_annotated for of in report.results.proteins} == {2}
    assert report.results.sites is not None
    assert report.results.sites.kinds == ("ACT_SITE",)


def test_other_names_are_never_ones_own_nor_the_same_twice() -> None:
    for number in (2, 3, 4, 50):
        shuffles = other_names(number, seed=0)
        assert len(shuffles) == min(3, number - 1)
        for other in shuffles:
            assert sorted(other.tolist()) == list(range(number))
            assert np.all(other != np.arange(number))
        for a in range(len(shuffles)):
            for b in range(a):
                assert np.all(shuffles[a] != shuffles[b])


def test_means_and_intervals_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    rankings = {
        of: [[Ranking(*rng.random(3).tolist()) for _ in range(9)] for _ in range(seeds)]
        for of, seeds in (("trained", 1), ("untrained", 2))
    }
    cluster = np.array([0, 0, 1, 1, 2, 3, 4, 5, 5])
    weight = draw_resamples(cluster, 200)
    trained, untrained = ranking_rows(rankings, weight)
    assert untrained.precision.value.values == pytest.approx(
        [fmean(of.precision for of in each) for each in rankings["untrained"]]
    )
    difference = [
        rankings["trained"][0][n].auroc - fmean(each[n].auroc for each in rankings["untrained"]) for n in range(9)
    ]
    drawn = [sum(w * d for w, d in zip(row, difference, strict=True)) / sum(row) for row in weight]
    margin = untrained.trained_minus["auroc"]
    assert margin.difference == pytest.approx(fmean(difference))
    assert margin.interval is not None
    assert (margin.interval.low, margin.interval.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1e-6)
    assert trained.trained_minus == {}
    assert ranking_rows(rankings, None)[0].precision.interval is None


def test_a_dry_run_says_who_would_be_looked_at_and_writes_nothing(toy: Toy, tmp_path: Path) -> None:
    result = call(toy, tmp_path / "out", f"--sites={toy.sites}", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["num_looked_at"] == len(toy.ids) - 3
    assert list(tmp_path.iterdir()) == []


def test_a_contrastive_model_is_refused_with_a_reason(toy: Toy, tmp_path: Path, monkeypatch) -> None:
    from amma.evaluate.analyses import subject as opened
    from amma.train.model.family import make_model

    config = ModelConfig.model_validate({"family": "contrastive", "width": 16, "ffn": 32, "num_heads": 2})

    def contrastive(*given, **options):
        found = open_analysis(*given, **options)
        return replace(found, trained=replace(found.trained, model=make_model(config, WIDTHS)))

    monkeypatch.setattr(opened, "open_analysis", contrastive)
    result = call(toy, tmp_path / "out")
    assert isinstance(result.exception, UsageError)
    assert "no tokens" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        (("--kind=BINDING",), UsageError, "with --sites"),
        (("--sites={sites}", "--top=3"), UsageError, "leave out --top"),
        (("--sites=nowhere.tsv",), InputError, "nowhere.tsv"),
        (("--manifest=nowhere.parquet",), InputError, "nowhere.parquet"),
        (("--ids={single}",), InputError, "at least 2 are needed"),
        (("--sites={elsewhere}",), InputError, "no such protein"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_computed(
    toy: Toy, tmp_path: Path, options: tuple[str, ...], kind: type[AmmaError], reason: str
) -> None:
    (tmp_path / "one.txt").write_text(f"{toy.ids[0]}\n")
    (tmp_path / "elsewhere.tsv").write_text("id\tstart\tend\tkind\nnobody\t3\t4\tBINDING\n")
    places = {"sites": toy.sites, "single": tmp_path / "one.txt", "elsewhere": tmp_path / "elsewhere.tsv"}
    result = call(toy, tmp_path / "out", *(option.format(**places) for option in options))
    assert isinstance(result.exception, kind)
    assert reason in str(result.exception)
    assert not (tmp_path / "out").exists()
