"""`amma-manifest`: build a manifest, make a toy proteome, look into a manifest."""

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

app = new_app("Say which proteins: join sequences, structures and function text into a manifest.")


@app.command()
def build(
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet", help="The manifest to write.")],
    sequences: Annotated[Path | None, typer.Option(help="FASTA file, plain or .gz.")] = None,
    structures: Annotated[
        Path | None,
        typer.Option(
            help="Folder of PDB, mmCIF or BinaryCIF files (.pdb .ent .cif .mmcif .bcif, plain or .gz), "
            "a .tar or .tar.gz of them, or one file."
        ),
    ] = None,
    descriptions: Annotated[Path | None, typer.Option(help="ProtDescribe table (TSV), plain or .gz.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    strict: Strict = False,
    debug: Debug = False,
) -> None:
    """Join sequences, structures and descriptions into OUT.parquet.

    Proteins are those of --sequences; without it those of --structures; without it those of --descriptions.
    A structure is a protein's if its file is named by the id (1ABC-A.pdb.gz), by the id without the chain (1ABC.cif),
    or is the AlphaFold model of its accession. Text is joined by EntryName, else by sequence. What cannot be used is
    listed in OUT.quarantine.jsonl, the counts are in OUT.report.json.
    """
    from amma.manifests.build import build_manifest

    report = build_manifest(
        sequences=sequences, structures=structures, descriptions=descriptions, out=out, dry_run=dry_run
    )
    if as_json:
        print_json(report.to_json())
    else:
        for line in report.lines():
            typer.echo(line)
    say(f"dry run: {out} was not written" if dry_run else f"wrote {out}")
    exit_for_quarantine(len(report.rejections), strict=strict)


@app.command()
def toy(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make: new, empty, or an earlier toy.")],
    proteins: Annotated[int, typer.Option(min=12, help="How many proteins.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give identical files.")] = 0,
    debug: Debug = False,
) -> None:
    """Make a synthetic proteome: sequences, structures, descriptions, EC labels, sites and splits, all invented."""
    from amma.manifests.toy import write_toy

    counts = write_toy(folder, proteins=proteins, seed=seed)
    typer.echo(", ".join(f"{count} {name}" for name, count in counts.items()))
    say(f"wrote {folder}: synthetic proteins, made by seed {seed}")


@app.command()
def inspect(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest made by build.")],
    protein: Annotated[str | None, typer.Option("--id", help="Show this protein's row instead.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Load every structure again, as featurize will.")] = False,
    as_json: AsJson = False,
    strict: Strict = False,
    debug: Debug = False,
) -> None:
    """Count what is in a manifest; show one protein; check that its structures are still what they were."""
    from dataclasses import asdict

    from amma.manifests.errors import UsageError
    from amma.manifests.summary import failing_structures, find_protein, summarise
    from amma.manifests.table import Manifest

    if protein is not None and check:
        raise UsageError("--id shows one protein and --check loads all structures; give one of them.")
    if protein is not None:
        row = find_protein(manifest, protein)
        print_json(asdict(row) | {"kind": row.kind, "length": len(row.sequence)})
        return
    if check:
        rows = Manifest(manifest)
        with progress("checking", len(rows), unit="proteins") as advance:
            failing = []
            for failure in failing_structures(rows):
                advance(1)
                failing += [failure] if failure else []
        if as_json:
            print_json([asdict(failure) for failure in failing])
        else:
            for failure in failing:
                typer.echo(f"{failure.id!r}: {failure.code}: {failure.reason}")
            typer.echo(f"{len(rows):,} proteins, {len(failing):,} structures that cannot be used any more")
        exit_for_quarantine(len(failing), strict=strict)
        return
    summary = summarise(manifest)
    if as_json:
        print_json(summary.to_json())
        return

    def shown(counts: dict[str, Any]) -> str:
        return ", ".join(f"{key} {value:,}" for key, value in counts.items()) or "none"

    typer.echo(f"{summary.proteins:,} proteins: {shown(summary.kinds)}")
    typer.echo(f"{summary.distinct_sequences:,} different sequences, {summary.accessions:,} UniProt accessions")
    typer.echo(f"{summary.residues:,} residues: {shown(summary.length)}")
    typer.echo(f"rare residues: {shown({letter: count for letter, count in summary.rare.items() if count})}")
    typer.echo(f"structures: {shown(summary.structures)}")
    typer.echo(f"no Cα: {shown(summary.unresolved)}")
    typer.echo(f"text: {shown(summary.text)}")
    if summary.quarantined is not None:
        typer.echo(f"quarantined in building: {shown(summary.quarantined)}")


def main() -> None:
    """Run `amma-manifest`."""
    run_app(app)
