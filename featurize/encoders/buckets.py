"""Group records of similar length, so that little of a padded batch is padding."""

from collections.abc import Sequence

LEAST_FILLED = 0.8


def length_buckets(lengths: Sequence[int], *, least_filled: float = LEAST_FILLED) -> list[list[int]]:
    """Indices into `lengths`, grouped: in a group the shortest is at least `least_filled` of the longest.

    Ascending by length, equal lengths in the order given: the same lengths always give the same groups.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups and lengths[groups[-1][0]] >= least_filled * lengths[index]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
