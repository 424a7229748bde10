"""The trained model against every other row, on the same test proteins."""

from collections.abc import Callable, Sequence

from amma.evaluate.metrics.paired import compare
from amma.evaluate.report.estimates import Difference
from amma.evaluate.report.results import Paired
from amma.evaluate.report.scored import Scored
from amma.evaluate.tasks.task import Task
from amma.train.data.validation_split import Clusters


def paired_with(
    trained: Scored,
    others: Sequence[Scored],
    task: Task,
    clusters: Clusters,
    *,
    num_resamples: int,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Paired, ...]:
    """Differences over `num_resamples` resamples and as many swaps of whole clusters; nothing without resamples."""
    found = []
    for other in others if num_resamples else ():
        pair = compare(trained.test, other.test, task.test.target_NK, clusters.number, num_resamples)
        found.append(Paired(against=other.name, fmax=Difference.of(pair.fmax), aupr=Difference.of(pair.aupr)))
        advance(1)
    return tuple(found)
