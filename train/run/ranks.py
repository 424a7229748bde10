"""The processes that take a run's steps together: which of them this is, and what they tell each other.

`torchrun` starts them, and says in the environment who is who. Each holds the whole model, takes its share of every
step's proteins, and does the same update: torch's DistributedDataParallel adds up the gradients. The first process
alone reads and writes the run's folder, and speaks.

Every method is called by all processes in the same order. What they exchange is small and lies in host memory, apart
from gradients and the sums of a step.
"""

import os
import socket
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.parallel import DistributedDataParallel

from amma.manifests.errors import RankError, UsageError
from amma.train.run.arithmetic import find_device

Value = TypeVar("Value")

SECONDS_TO_BEGIN = 600
"""Until all processes have started; torch may come from a slow file system."""
SECONDS_OF_PATIENCE = 7 * 24 * 3600
"""For what the first process does alone: making clusters, measuring channels, writing a checkpoint."""


class Ranks:
    """A run that has one process: there is nobody to tell anything."""

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Whether this process owns the run's folder, and speaks."""
        return self.rank == 0

    def share(self, make: Callable[[], Value]) -> Value:
        """What `make` gives, which only the first process calls; where it raises, the others end without a word."""
        return make()

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so."""
        return flag

    def largest(self, number: int) -> int:
        """The largest number that a process gives."""
        return number

    def gathered(self, value: Value) -> list[Value]:
        """What each process gives, in their order."""
        return [value]

    def names(self, kind: Hashable, names: Iterable[str]) -> list[str]:
        """All names that any process gives. They are asked once: those of one `kind` are always the same."""
        return list(names)

    def counted(self, kind: Hashable, counts: Mapping[str, int]) -> dict[str, int]:
        """Counts by name, added up over the processes; of `kind` as in `names`."""
        return dict(counts)

    def add_up(self, values: Tensor) -> Tensor:
        """The sum over the processes, in place; `values` are on the run's device."""
        return values

    def wait(self) -> None:
        """Until all processes are here, however long that takes."""

    def joined(self, module: nn.Module) -> nn.Module:
        """`module` with the first process's weights; its gradients become the mean over processes."""
        return module

    def reduces(self, module: nn.Module, *, now: bool) -> AbstractContextManager[None]:
        """Around a forward and its backward pass of a joined module: gradients are kept until one that reduces `now`.

        Every process does so once in a step, in its last pass.
        """
        return nullcontext()

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, int]:
        """The rows of all processes in their order, and how many lie before this one's: an `objective.Gather`."""
        return rows, 0


ALONE = Ranks()


class Processes(Ranks):
    """One of several processes; made by `joined_processes`."""

    def __init__(self, device: torch.device, *, timeout: int) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._names: dict[Hashable, list[str]] = {}
        self._patient = dist.new_group(backend="gloo", timeout=timedelta(seconds=SECONDS_OF_PATIENCE))
        self._host = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self._device = self._host
        if device.type == "cuda":
            self._device = dist.new_group(backend="nccl", timeout=timedelta(seconds=timeout))

    def share(self, make: Callable[[], Value]) -> Value:
        """What `make` gives, which only the first process calls; where it raises, the others end without a word."""
        if not self.is_first:
            told: list[tuple[bool, Value] | None] = [None]
            dist.broadcast_object_list(told, src=0, group=self._patient)
            if told[0] is None or not told[0][0]:
                raise SystemExit(1)
            return told[0][1]
        try:
            value = make()
        except BaseException:
            dist.broadcast_object_list([(False, None)], src=0, group=self._patient)
            raise
        dist.broadcast_object_list([(True, value)], src=0, group=self._patient)
        return value

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so."""
        return bool(self.largest(int(flag)))

    def largest(self, number: int) -> int:
        """The largest number that a process gives."""
        given = torch.tensor([number])
        dist.all_reduce(given, dist.ReduceOp.MAX, group=self._host)
        return int(given.item())

    def gathered(self, value: Value) -> list[Value]:
        """What each process gives, in their order."""
        values: list[Value | None] = [None] * self.size
        dist.all_gather_object(values, value, group=self._patient)
        return cast(list[Value], values)

    def names(self, kind: Hashable, names: Iterable[str]) -> list[str]:
        """All names that any process gives. They are asked once: those of one `kind` are always the same."""
        if kind not in self._names:
            given = dict.fromkeys(names)
            self._names[kind] = list(dict.fromkeys(name for each in self.gathered(list(given)) for name in each))
        return self._names[kind]

    def counted(self, kind: Hashable, counts: Mapping[str, int]) -> dict[str, int]:
        """Counts by name, added up over the processes; of `kind` as in `names`."""
        names = self.names(kind, counts)
        numbers = torch.tensor([counts.get(name, 0) for name in names], dtype=torch.int64)
        dist.all_reduce(numbers, group=self._host)
        return dict(zip(names, numbers.tolist(), strict=True))

    def add_up(self, values: Tensor) -> Tensor:
        """The sum over the processes, in place; `values` are on the run's device."""
        dist.all_reduce(values, group=self._device)
        return values

    def wait(self) -> None:
        """Until all processes are here, however long that takes."""
        dist.barrier(group=self._patient)

    def joined(self, module: nn.Module) -> nn.Module:
        """`module` with the first process's weights; its gradients become the mean over processes.

        A step need not use all parameters (a stream without text leaves a decoder out), so it is looked which it did;
        one that no process used has no gradient, as without other processes.
        """
        with warnings.catch_warnings():
            # Its successor is not there in the oldest torch that we work with.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            return DistributedDataParallel(
                module, process_group=self._device, broadcast_buffers=False, find_unused_parameters=True
            )

    def reduces(self, module: nn.Module, *, now: bool) -> AbstractContextManager[None]:
        """Around a forward and its backward pass of a joined module: gradients are kept until one that reduces `now`.

        Every process does so once in a step, in its last pass.
        """
        if now or not isinstance(module, DistributedDataParallel):
            return nullcontext()
        kept: AbstractContextManager[None] = module.no_sync()
        return kept

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, int]:
        """The rows of all processes in their order, and how many lie before this one's: an `objective.Gather`."""
        mine = torch.zeros(self.size, dtype=torch.int64)
        mine[self.rank] = len(rows)
        dist.all_reduce(mine, group=self._host)
        lengths = mine.tolist()
        filled = torch.cat([rows, rows.new_zeros(max(lengths) - len(rows), *rows.shape[1:])])
        if rows.is_floating_point():
            parts = list(all_gather(filled, group=self._device))  # type: ignore[no-untyped-call]
        else:
            parts = [torch.empty_like(filled) for _ in lengths]
            dist.all_gather(parts, filled, group=self._device)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)]), sum(
            lengths[: self.rank]
        )


def own_device(name: str) -> torch.device:
    """The device called `name`; with several processes on a machine each has a GPU of its own.

    Raises `UsageError` if torch knows no such device, or there is none for this process.
    """
    device = find_device(name)
    if device.type != "cuda" or not _is_one_of_several():
        return device
    place, available = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if device.index is not None:
        raise UsageError(f"--device {name} is one GPU, and there are several processes. Give cuda: each takes its own.")
    if place >= available:
        raise UsageError(
            f"process {place} of this machine has no GPU: torch sees {available}. Give torchrun "
            f"--nproc-per-node {available}, or --device cpu."
        )
    return torch.device("cuda", place)


@contextmanager
def joined_processes(device: torch.device, *, timeout: int) -> Iterator[Ranks]:
    """The processes that `torchrun` started together with this one; `ALONE` without it.

    After `timeout` seconds in which another process is not heard of it counts as dead. Raises `RankError` once that is
    known: at once where its connection is closed.
    """
    if not _is_one_of_several():
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("gloo", timeout=timedelta(seconds=SECONDS_TO_BEGIN))
        yield Processes(device, timeout=timeout)
    except RuntimeError as error:
        if not _is_about_others(error):
            raise
        rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
        what = str(error).strip().splitlines()[0]
        raise RankError(
            f"process {rank} of {size}, on {socket.gethostname()}: another process of this run has ended, or was "
            f"silent for {timeout} s ({what}). Look at what it said. The last checkpoint is safe: the same command "
            "goes on from there; if none has died, give a longer --rank-timeout."
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_one_of_several() -> bool:
    known = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in known) and int(os.environ["WORLD_SIZE"]) > 1


def _is_about_others(error: RuntimeError) -> bool:
    """Whether an error is one of talking to other processes; gloo's have no class of their own."""
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL", "TCPStore"))
