"""`amma-train export`: a trained model as a folder that others can load."""

from pathlib import Path
from typing import Annotated

import typer

from amma.manifests.console import AsJson, Debug, DryRun, print_json, say


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A run folder, or one of its checkpoints.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; new or empty.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the exported model at FOLDER.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a model as a Hugging Face folder: config.json, model.safetensors, a model card; of a run its best one.

    AMMA.from_pretrained(FOLDER) and every command that takes a CHECKPOINT load it. Nothing is uploaded; state a licence
    in the card before you publish it.
    """
    from amma.train.export import export_model

    exported = export_model(checkpoint, folder, overwrite=overwrite, dry_run=dry_run)
    if as_json:
        print_json(exported.as_json())
    else:
        typer.echo("\n".join(exported.lines()))
    if dry_run:
        say(f"dry run: nothing was written to {folder}")
