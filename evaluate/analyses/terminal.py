"""What the commands of all analyses say: the plan of a dry run, and the result."""

from collections.abc import Iterable
from pathlib import Path

from amma.evaluate.analyses.report import Analysis
from amma.evaluate.analyses.subject import HeldOut
from amma.manifests.console import print_json, say
from amma.manifests.settings import Settings


def tell_plan(
    config: Settings, held_out: HeldOut, out: Path, *, as_json: bool, num_looked_at: int | None = None
) -> None:
    """Which proteins would be analysed, how many of them can be if that is not all, and where the analysis would go."""
    if as_json:
        facts = {"config": config.model_dump(mode="json"), "proteins": held_out.facts.model_dump(mode="json")}
        print_json(facts if num_looked_at is None else {**facts, "num_looked_at": num_looked_at})
    else:
        print(held_out.facts.sentence())
        if num_looked_at is not None:
            print(f"{num_looked_at:,} of them can be looked at")
    say(f"dry run: nothing was computed; the analysis would go to {out}")


def tell_result(report: Analysis, lines: Iterable[str], page: Path, *, as_json: bool) -> None:
    """The whole of `report.json`, or a table's lines; and where the page is."""
    if as_json:
        print_json(report.model_dump(mode="json"))
        say(f"report: {page}")
        return
    print(*lines, sep="\n")
    print(f"report: {page}")
