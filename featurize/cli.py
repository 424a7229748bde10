"""`amma-featurize`: turn proteins into a feature store, and look after it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from amma.manifests.console import (
    AsJson,
    Debug,
    DryRun,
    Strict,
    exit_for_quarantine,
    new_app,
    print_json,
    progress,
    run_app,
    say,
)

app = new_app("Run the frozen encoders once, into a sealed feature store that training reads.")

Store = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a feature store.")]


class Precision(StrEnum):
    """What encoders compute in."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Long(StrEnum):
    """What becomes of proteins with more residues than the sequence encoder takes."""

    TRUNCATE = "truncate"
    SKIP = "skip"


class Backend(StrEnum):
    """Whose GearNet computes."""

    AMMA = "amma"
    TORCHDRUG = "torchdrug"


class SpecialTokens(StrEnum):
    """Whether special tokens are rows of a text."""

    DROP = "drop"
    KEEP = "keep"


class ExportFormat(StrEnum):
    """What other tools read."""

    H5 = "h5"
    NPY = "npy"
    PARQUET = "parquet"


class View(StrEnum):
    """A modality (its own class would bring pyarrow with it)."""

    SEQ = "seq"
    STR = "str"
    FUNC = "func"


class Pool(StrEnum):
    """How a protein's rows become one vector."""

    MEAN = "mean"


class Dtype(StrEnum):
    """What features are stored as."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


@app.command()
def run(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="A manifest (.parquet), a FASTA file, or a folder of PDB/mmCIF files."),
    ],
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder to begin, or to go on with.")],
    preset: Annotated[str, typer.Option(help="Encoders: paper (published weights), or tiny (random weights).")],
    weights: Annotated[Path | None, typer.Option(help="Folder with the weights of the paper's encoders.")] = None,
    structures: Annotated[Path | None, typer.Option(help="With FASTA: folder of PDB/mmCIF files.")] = None,
    descriptions: Annotated[Path | None, typer.Option(help="With FASTA or PDB: ProtDescribe table (TSV).")] = None,
    seq_encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another sequence encoder: a name, Hugging Face id or folder.")
    ] = None,
    str_encoder: Annotated[str | None, typer.Option(metavar="NAME", help="Another structure encoder.")] = None,
    func_encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another text encoder: a name, Hugging Face id or folder.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Layer of the sequence encoder that is stored. [default: its last]")
    ] = None,
    max_residues: Annotated[
        int | None, typer.Option(min=1, help="Residues of a protein that are encoded. [default: the encoder's limit]")
    ] = None,
    long: Annotated[
        Long | None, typer.Option(help="Of longer proteins, keep the first residues or nothing. [default: truncate]")
    ] = None,
    str_backend: Annotated[
        Backend | None, typer.Option(help="Whose GearNet computes; torchdrug needs `make torchdrug`. [default: amma]")
    ] = None,
    text_fields: Annotated[
        str | None,
        typer.Option(metavar="FIELDS", help="Fields to encode. [default: name,function,location,similarity]"),
    ] = None,
    special_tokens: Annotated[
        SpecialTokens | None, typer.Option(help="Whether [CLS] and [SEP] are rows of a text. [default: drop]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        Precision, typer.Option(help="What encoders compute in; auto: bf16 on a GPU that has it, else fp32.")
    ] = Precision.AUTO,
    dtype: Annotated[Dtype | None, typer.Option(help="What features are stored as. [default: float16]")] = None,
    shard_rows: Annotated[int | None, typer.Option(min=1, help="Rows of a shard. [default: 16384]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the order of storage. [default: 0]")] = None,
    token_budget: Annotated[
        int | None, typer.Option(min=1, help="Most tokens in an encode batch. [default: 8192]")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the encoders. [default: the processors there are]")
    ] = None,
    dry_run: DryRun = False,
    strict: Strict = False,
    debug: Debug = False,
) -> None:
    """Encode the proteins of INPUT into STORE.

    Killed or stopped, the same command goes on where it was; the finished store is the same to the byte. A store keeps
    the settings it was begun with, so they need not be repeated. FASTA and PDB are built into a manifest first, which
    lies beside STORE.
    """
    from amma.featurize.encoders.choice import EncoderChoice
    from amma.featurize.encoders.presets import build_encoders
    from amma.featurize.run import featurize, preview_run, recorded_precision
    from amma.featurize.source import opened_manifest
    from amma.featurize.store.disk import human
    from amma.featurize.store.settings import StoreSettings

    chosen: dict[str, Any] = {
        "dtype": dtype,
        "shard_rows": shard_rows,
        "seed": seed,
        "token_budget": token_budget,
        "threads": threads,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    settings = StoreSettings.parse(given, source="the options")
    choice = EncoderChoice.parse(
        {
            "seq_encoder": seq_encoder,
            "str_encoder": str_encoder,
            "func_encoder": func_encoder,
            "layer": layer,
            "max_residues": max_residues,
            "long": long,
            "str_backend": str_backend,
            "text_fields": None if text_fields is None else tuple(text_fields.split(",")),
            "special_tokens": special_tokens,
        },
        source="the options",
    )
    encoders = build_encoders(
        preset,
        weights=weights,
        device=device,
        precision=recorded_precision(store) or precision if precision is Precision.AUTO else precision,
        replaced=choice.specs(preset),
    )
    with opened_manifest(source, store, structures=structures, descriptions=descriptions, dry_run=dry_run) as opened:
        manifest, num_unusable = opened
        if dry_run:
            plan = preview_run(manifest, store, encoders, settings)
            rows = ", ".join(f"{count} {modality}" for modality, count in plan.header.rows.items())
            typer.echo(f"proteins     {plan.header.num_proteins} ({_kinds(plan.header.kinds)})")
            typer.echo(f"rows         {rows}")
            typer.echo(f"units        {plan.header.num_units}, {plan.committed} of them committed")
            typer.echo(f"still needs  {human(plan.needed)}; {human(plan.free)} are free")
            say(f"dry run: {store} is sealed" if plan.sealed else f"dry run: nothing was written to {store}")
            return
        outcome = featurize(manifest, store, encoders, settings, show_progress=True)
    done = "was sealed already" if outcome.was_sealed else "sealed"
    say(f"{store}: {done}{' (random encoders)' if outcome.header.random_weights else ''}")
    typer.echo(f"proteins     {outcome.header.num_proteins} ({_kinds(outcome.header.kinds)} planned)")
    typer.echo(f"quarantined  {outcome.num_rejected} while encoding, {num_unusable} before")
    typer.echo(f"root         {outcome.root}")
    exit_for_quarantine(outcome.num_rejected + num_unusable, strict=strict)


@app.command()
def status(store: Store, as_json: AsJson = False, debug: Debug = False) -> None:
    """Say how many units and proteins are safe, and whether the store is sealed."""
    from amma.featurize.store.status import status as read_status

    _show(read_status(store), as_json=as_json)


@app.command()
def verify(
    store: Store,
    quick: Annotated[bool, typer.Option("--quick", help="Check sizes, metadata and ledger, not the features.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check every file against its hash and every protein against its checksum; exit 1 if anything is wrong."""
    from amma.featurize.store.verify import verify_store

    found = verify_store(store, quick=quick, progress=lambda total: progress("verify", total, unit="bytes"))
    _show(found, as_json=as_json)
    if found.findings:
        raise typer.Exit(1)


@app.command()
def inspect(store: Store, as_json: AsJson = False, debug: Debug = False) -> None:
    """Describe what is in a store: kinds, lengths, encoders, how the channels are distributed."""
    from amma.featurize.store.inspection import inspect_store

    _show(inspect_store(store), as_json=as_json)


@app.command()
def export(
    store: Store,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder (h5, npy) or file (parquet) to write.")],
    format: Annotated[ExportFormat, typer.Option(help="h5: a dataset an id; npy: a file an id; parquet: one table.")],
    pool: Annotated[
        Pool | None, typer.Option(help="One vector a protein, the mean over its rows. [default: all rows]")
    ] = None,
    modality: Annotated[
        list[View] | None, typer.Option(help="seq, str or func; repeatable. [default: all three]")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="File of the ids to export, one a line. [default: all]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at OUT.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write features in a format of other tools; OUT appears when it is whole."""
    from amma.featurize.export.run import export_store
    from amma.featurize.store.reader import FeatureStore
    from amma.manifests.labels import read_ids
    from amma.manifests.table import MODALITIES

    with FeatureStore(store) as opened:
        exported = export_store(
            opened,
            out,
            format=format.value,
            pooled=pool is not None,
            modalities=tuple(each for each in MODALITIES if modality is None or View(each) in modality),
            ids=None if ids is None else read_ids(ids),
            overwrite=overwrite,
            dry_run=dry_run,
        )
    _show(exported, as_json=as_json)
    if dry_run:
        say(f"dry run: nothing was written to {out}")


def _show(result: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(result.as_json())
        return
    for line in result.lines():
        typer.echo(line)


def _kinds(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def main() -> None:
    """Entry point of `amma-featurize`."""
    run_app(app)


if __name__ == "__main__":
    main()
