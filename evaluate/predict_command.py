"""`amma-eval predict`: what a tuned model says of new proteins."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from amma.evaluate.options import Overwrite
from amma.featurize.options import EncodingOptions, Long, Precision
from amma.manifests.console import AsJson, Debug, DryRun, Strict, exit_for_quarantine, print_json, say
from amma.manifests.option_table import takes_options

RECORDED = "recorded"
"""Leaves an option to what the predictor was tuned with."""
NOT_FOR_NEW_PROTEINS = (
    "descriptions",
    "func_encoder",
    "text_fields",
    "special_tokens",
    "dtype",
    "shard_rows",
    "seed",
)
"""Texts are not read, and how features are stored is the predictor's to say."""


@dataclass(frozen=True)
class NewProteins(EncodingOptions):
    """The options of encoding, none of them required: what is not given is as the predictor recorded it."""

    preset: Annotated[
        str, typer.Option(help="Encoders: paper, tiny, or recorded: those that the predictor was tuned with.")
    ] = RECORDED
    layer: Annotated[
        int | None, typer.Option(help="Layer of the sequence encoder. [default: that of the predictor]")
    ] = None
    max_residues: Annotated[
        int | None, typer.Option(min=1, help="Residues of a protein that are encoded. [default: the predictor's]")
    ] = None
    long: Annotated[
        Long | None, typer.Option(help="Of longer proteins, keep the first residues or nothing. [default: likewise]")
    ] = None
    precision: Annotated[Precision, typer.Option(help="What encoders compute in; auto: what the predictor's did.")] = (
        Precision.AUTO
    )


takes_encoding = takes_options(
    NewProteins, "encoding", lambda context, values: NewProteins(**values), leave_out=NOT_FOR_NEW_PROTEINS
)


@takes_encoding
def predict(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A report folder of amma-eval function, or its predictor.")
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="FASTA, a PDB/mmCIF file or a folder or archive of them, a manifest, or a sealed store (s3:// too).",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the predictions; new or empty.")],
    encoding: NewProteins,
    chain: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of files with several chains, this one. [default: each is a protein]"),
    ] = None,
    keep_store: Annotated[
        Path | None,
        typer.Option(metavar="STORE", help="Keep the features there; killed, the same command goes on with them."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Most terms of a protein in the table.")] = 10,
    at_least: Annotated[
        float, typer.Option(min=0, max=1, metavar="PROBABILITY", help="No terms below this in the table.")
    ] = 0.0,
    cafa: Annotated[
        bool, typer.Option("--cafa", help="Write predictions.cafa.tsv too, in the format of CAFA's submissions.")
    ] = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    strict: Strict = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Predict the terms of new proteins from FASTA, PDB/mmCIF or a store: ranked, named, with calibrated probabilities.

    Proteins are encoded here, by the encoders that the model was tuned with. OUT/predictions.tsv has the best terms of
    each, predictions.parquet all of them. What cannot be used is in quarantine.jsonl.
    """
    from amma.evaluate.predict import plan, result_lines
    from amma.evaluate.predict import predict as predict_terms
    from amma.evaluate.predictor.encoders import EncoderSettings
    from amma.evaluate.predictor.inputs import Asked
    from amma.train.run.arithmetic import find_device

    asked = Asked(
        source=source,
        structures=encoding.structures,
        chain=chain,
        keep=keep_store,
        encoders=EncoderSettings.parse(_given(encoding), source="the options"),
        token_budget=encoding.token_budget,
        threads=encoding.threads,
    )
    device = str(find_device(encoding.device))
    if dry_run:
        facts = plan(checkpoint, asked, out, device=device, overwrite=overwrite)
        if as_json:
            print_json(facts)
        else:
            for key, value in facts.items():
                shown = ", ".join(f"{n} {name}" for name, n in value.items()) if isinstance(value, dict) else value
                typer.echo(f"{key.replace('_', ' '):16}{shown}")
        say(f"dry run: nothing was computed; predictions would go to {out}")
        return
    result = predict_terms(
        checkpoint, asked, out, top=top, at_least=at_least, device=device, cafa=cafa, overwrite=overwrite
    )
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        typer.echo("\n".join(result_lines(result, out)))
    exit_for_quarantine(result.counts.quarantined, strict=strict)


def _given(encoding: NewProteins) -> dict[str, Any]:
    """What was said about the encoders; what was not is left to the predictor."""
    names = ("weights", "seq_encoder", "str_encoder", "layer", "max_residues", "long", "str_backend", "device")
    given = {name: getattr(encoding, name) for name in names}
    given["preset"] = None if encoding.preset == RECORDED else encoding.preset
    given["precision"] = None if encoding.precision == "auto" else str(encoding.precision)
    return given
