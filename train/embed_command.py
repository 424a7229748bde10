"""`amma-train embed`: the representations of all proteins of feature stores."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from amma.featurize.options import Dtype, View
from amma.manifests.console import AsJson, Debug, DryRun, Strict, exit_for_quarantine, print_json, progress, say
from amma.manifests.errors import UsageError
from amma.train.options import Precision


def embed(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT STORE [STORE...] OUT",
            help="A run folder, one of its checkpoints or an exported model; sealed stores of its encoders (s3:// "
            "too); the store to write, new or to go on with.",
            show_default=False,
        ),
    ],
    modality: Annotated[
        list[View] | None,
        typer.Option(help="seq, str or func: what the model is shown; repeatable. [default: all that a protein has]"),
    ] = None,
    pooled: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write one vector a protein and modality too, the mean of its rows: Parquet."
        ),
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="What is stored. [default: float16]")] = None,
    precision: Annotated[Precision, typer.Option(help="bf16 computes products in bfloat16.")] = Precision.FP32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    token_budget: Annotated[
        int | None, typer.Option(min=1, help="Most tokens in a batch, of all modalities. [default: 8192]")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the model. [default: the processors there are]")
    ] = None,
    part: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only this share of the units; amma-featurize seal OUT ends it.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Check OUT, and make what is damaged again; to the byte, or not at all.")
    ] = False,
    dry_run: DryRun = False,
    strict: Strict = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write the fused representation of every protein: a row a residue and a token, and a vector a protein.

    Nothing is masked, and a protein's representation does not depend on the others. OUT is a feature store, in the
    order of the inputs: amma-featurize verify, inspect, export and push take it. Killed or stopped, the same command
    goes on, and ends in the same bytes.
    """
    if len(paths) < 3:
        raise UsageError(f"expected CHECKPOINT STORE [STORE...] OUT, got only {' '.join(paths)}.")
    if repair and (part or pooled):
        raise UsageError("--repair goes without --part and --pooled: it makes again what is there.")
    if part and pooled:
        raise UsageError("--pooled needs the whole store: seal it, then run without --part.")
    checkpoint, stores, out = Path(paths[0]), paths[1:-1], Path(paths[-1])

    from amma.featurize.passes import repair_shown
    from amma.featurize.store.documents import is_sealed
    from amma.featurize.store.filling import fill_store, preview
    from amma.featurize.store.location import parse_location
    from amma.featurize.store.parts import Part
    from amma.featurize.workers.part import fill_part
    from amma.manifests.table import MODALITIES
    from amma.train.data.corpus import Corpus
    from amma.train.embed import EmbeddingOrigin, settings_for, write_pooled
    from amma.train.run.arithmetic import find_device
    from amma.train.run.checkpoint import load_model

    if pooled is not None and out.absolute() in pooled.absolute().parents:
        raise UsageError(f"{pooled} would lie in {out}, which holds nothing but a store's files. Give another path.")
    pooled_is_there = pooled is not None and pooled.exists()
    if pooled_is_there and not is_sealed(out):
        raise UsageError(f"{pooled} exists. Give another path for --pooled, or remove it.")
    loaded = load_model(checkpoint)
    corpus = Corpus.open([parse_location(store) for store in stores])
    try:
        origin = EmbeddingOrigin(
            loaded,
            corpus,
            modalities=tuple(each for each in MODALITIES if modality is None or View(each) in modality),
            device=find_device(device),
            precision=precision.value,
        )
        settings = settings_for(
            corpus, dtype=None if dtype is None else dtype.value, token_budget=token_budget, threads=threads
        )
        if repair:
            done = repair_shown(out, origin, settings, dry_run=dry_run, show=_shown)
            if as_json:
                print_json(done.as_json())
            else:
                typer.echo("\n".join(done.lines()))
            if not done.is_whole:
                raise typer.Exit(1)
            return
        if dry_run:
            _show(_planned(preview(out, origin, settings)), as_json=as_json)
            say(f"dry run: nothing was written to {out}")
            return
        if part is not None:
            filled = fill_part(out, origin, settings, Part.parse(part), progress=partial(_shown, "embed"))
            typer.echo("\n".join(filled.lines(out)))
            exit_for_quarantine(filled.num_rejected, strict=strict)
            return
        outcome = fill_store(out, origin, settings, progress=partial(_shown, "embed"))
    finally:
        corpus.close()
    random = " (random encoders)" if outcome.header.random_weights else ""
    say(f"{out}: {'was sealed already' if outcome.was_sealed else 'sealed'}{random}")
    if pooled_is_there:
        say(f"{pooled} was there already and is left as it is")
    elif pooled is not None:
        write_pooled(out, pooled)
    result = {
        "proteins": outcome.header.num_proteins,
        "kinds": dict(sorted(outcome.header.kinds.items())),
        "rows": {str(each): rows for each, rows in outcome.header.rows.items()},
        "quarantined": outcome.num_rejected,
        "root": outcome.root,
        "random_encoders": outcome.header.random_weights,
    }
    _show(result, as_json=as_json)
    exit_for_quarantine(outcome.num_rejected, strict=strict)


def _shown(label: str, total: int) -> Any:
    return progress(label, total, unit="bytes" if label == "verify" else "residues and tokens")


def _planned(plan: Any) -> dict[str, Any]:
    header = plan.header
    return {
        "proteins": header.num_proteins,
        "kinds": dict(sorted(header.kinds.items())),
        "rows": {str(modality): rows for modality, rows in header.rows.items()},
        "units": header.num_units,
        "committed": plan.committed,
        "bytes_needed": plan.needed,
        "bytes_free": plan.free,
    }


def _show(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    from amma.featurize.store.disk import human

    for key, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{count} {name}" for name, count in value.items())
        elif key.startswith("bytes_"):
            value = human(value)
        typer.echo(f"{key.replace('_', ' '):16}{value}")
