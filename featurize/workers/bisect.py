"""Find the proteins that end the process that encodes them."""

from collections.abc import Callable, Sequence

Survives = Callable[[Sequence[int]], bool]
"""Whether a worker outlives encoding these slots of a unit, and no others."""


def find_fatal(slots: Sequence[int], survives: Survives) -> list[int]:
    """The slots that end a worker alone, of a unit that did; halves that do no harm are not looked into.

    Workers also end for reasons of their own, so a slot is only found guilty when it ends its worker twice. Empty
    where proteins do harm in company only, or none does.
    """
    if len(slots) == 1:
        return [] if survives(slots) or survives(slots) else list(slots)
    half = (len(slots) + 1) // 2
    return [
        fatal
        for part in (slots[:half], slots[half:])
        if len(part) == 1 or not survives(part)
        for fatal in find_fatal(part, survives)
    ]
