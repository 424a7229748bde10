"""Prepare items ahead in threads and hand them out in order.

Threads, not processes: reading releases the interpreter's lock, nothing is copied between processes, and nothing is
forked. The order and the items are the same for any number of threads, because each item is made from its number
alone.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Loader(Generic[Item]):
    """Iterate over `make(start), …, make(stop - 1)`, up to `ahead` of them made before they are asked for.

    An error in `make` is raised where its item would have come. Leave the `with` block to end the threads; items
    not yet begun are dropped. `begin` runs first in every thread. `announce` is called with the number of an item that
    a thread will come to soon, for what it needs to be fetched meanwhile; not all are announced. `waited` sums the
    seconds the consumer stood still.
    """

    def __init__(
        self,
        make: Callable[[int], Item],
        start: int,
        stop: int,
        *,
        threads: int,
        ahead: int,
        begin: Callable[[], object] | None = None,
        announce: Callable[[int], object] | None = None,
    ) -> None:
        self._make = make
        self._announce = announce
        self._reach = threads
        self._next = start
        self._stop = stop
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="loader", initializer=begin)
        self._pending: deque[Future[Item]] = deque()
        self.waited = 0.0

    def __enter__(self) -> "Loader[Item]":
        return self

    def __iter__(self) -> Iterator[Item]:
        while True:
            while len(self._pending) <= self._ahead and self._next < self._stop:
                self._pending.append(self._pool.submit(self._made, self._next))
                self._next += 1
            if not self._pending:
                return
            began = time.perf_counter()
            item = self._pending.popleft().result()
            self.waited += time.perf_counter() - began
            yield item

    def _made(self, number: int) -> Item:
        if self._announce is not None and number + self._reach < self._stop:
            self._announce(number + self._reach)
        return self._make(number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
