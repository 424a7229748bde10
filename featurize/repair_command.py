"""The command `amma-featurize repair`."""

from pathlib import Path
from typing import Annotated

import typer

from amma.featurize.options import (
    Descriptions,
    Device,
    EncoderPrecision,
    FuncEncoder,
    Layer,
    LongProteins,
    MaxResidues,
    Precision,
    PresetName,
    SeqEncoder,
    ShardRows,
    Source,
    StorageSeed,
    StoredDtype,
    StrBackend,
    StrEncoder,
    Structures,
    TextFields,
    TextSpecialTokens,
    Threads,
    TokenBudget,
    Weights,
    chosen_encoders,
    chosen_settings,
)
from amma.manifests.console import AsJson, Debug, DryRun, print_json, progress


def repair(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a damaged feature store.")],
    source: Source,
    preset: PresetName,
    weights: Weights = None,
    structures: Structures = None,
    descriptions: Descriptions = None,
    seq_encoder: SeqEncoder = None,
    str_encoder: StrEncoder = None,
    func_encoder: FuncEncoder = None,
    layer: Layer = None,
    max_residues: MaxResidues = None,
    long: LongProteins = None,
    str_backend: StrBackend = None,
    text_fields: TextFields = None,
    special_tokens: TextSpecialTokens = None,
    device: Device = "auto",
    precision: EncoderPrecision = Precision.AUTO,
    dtype: StoredDtype = None,
    shard_rows: ShardRows = None,
    seed: StorageSeed = None,
    token_budget: TokenBudget = None,
    threads: Threads = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Make what is damaged in STORE again, from the INPUT and the encoders it was made of.

    Every file is checked; only the units that are damaged are encoded, and only what is byte for byte what it was is
    put in place. Stopped, the same command goes on. Exit 1 if anything is left that is not as it should be. Settings
    are those of STORE; they matter only where its plan.json is lost.
    """
    from amma.featurize.replay import ReplayOrigin
    from amma.featurize.source import opened_manifest
    from amma.featurize.store.repair import repair_store

    settings = chosen_settings(
        dtype=dtype, shard_rows=shard_rows, seed=seed, token_budget=token_budget, threads=threads
    )
    encoders = chosen_encoders(
        store,
        preset=preset,
        weights=weights,
        device=device,
        precision=precision,
        text_fields=text_fields,
        seq_encoder=seq_encoder,
        str_encoder=str_encoder,
        func_encoder=func_encoder,
        layer=layer,
        max_residues=max_residues,
        long=long,
        str_backend=str_backend,
        special_tokens=special_tokens,
    )
    with opened_manifest(source, store, structures=structures, descriptions=descriptions, dry_run=dry_run) as opened:
        done = repair_store(
            store,
            ReplayOrigin(opened[0], encoders),
            settings,
            dry_run=dry_run,
            verifying=lambda total: progress("verify", total, unit="bytes"),
            encoding=lambda total: progress("repair", total, unit="residues and tokens"),
        )
    if as_json:
        print_json(done.as_json())
    else:
        for line in done.lines():
            typer.echo(line)
    if not done.is_whole:
        raise typer.Exit(1)
