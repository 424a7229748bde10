"""Arguments and options that several commands of `amma-eval` have in common."""

from pathlib import Path
from typing import Annotated

import typer

Checkpoint = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="A run folder of amma-train (its best one), a step, or an export.")
]
Store = Annotated[str, typer.Argument(metavar="STORE", help="A sealed store of the same encoders; s3:// too.")]
AnalysisOut = Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the analysis; new or empty.")]
Ids = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Only these proteins, one id a line. [default: all held out]")
]
Bootstrap = Annotated[
    int, typer.Option(min=0, metavar="NUMBER", help="Resamples of proteins for 95 % intervals; 0: none.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: torch's own choice]")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run of the command left there.")]
