"""The workers of a run: processes of this machine, or those of a dask scheduler that is there already.

Local workers are started and restarted here, not by a nanny: each is in a session of its own, so that Ctrl-C on a
terminal reaches the run alone, has its own GPU, and a worker that is killed while it starts is started again. They
end by themselves when the run is no more.
"""

import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amma.featurize.loaded import loaded_module
from amma.manifests.console import say
from amma.manifests.errors import StoreError, UsageError

CONNECT_SECONDS = 30.0
_COUNT_SECONDS = 2.0
_WAITING_SECONDS = 60.0
_CLOSE_SECONDS = 5.0
_DEATHS_BEFORE_ANY_WORKS = 3
_ALLOWED_FAILURES = 1
"""A task that ended two local workers is not given to a third."""

_OPTIONS = (
    *("--no-nanny", "--no-dashboard", "--nthreads", "1", "--memory-limit", "0"),
    *("--host", "127.0.0.1", "--local-directory"),
)


@dataclass(frozen=True)
class Crew:
    """Which workers: so many `local` ones, or those of the `scheduler` at an address or described by a file.

    `resources` is what a worker must offer for a unit, as dask counts it (`GPU=1`).
    """

    local: int | None = None
    scheduler: str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    connect_seconds: float = CONNECT_SECONDS

    def __str__(self) -> str:
        return f"{self.local} local processes" if self.local else f"those of {self.scheduler}"

    @contextmanager
    def connected(self, *, own_gpus: bool) -> Iterator["Team"]:
        """Start or find the workers; local ones end with the context. `own_gpus`: give local ones a GPU each.

        Raises `StoreError` `E_CLUSTER` if no scheduler answers.
        """
        from distributed import Client, LocalCluster

        with ExitStack() as stack:
            stack.enter_context(_quiet_client())
            if self.scheduler is not None:
                at: Any = {"scheduler_file": self.scheduler} if Path(self.scheduler).is_file() else {}
                client = self._client(Client, **(at or {"address": self.scheduler}))
                stack.callback(client.close, timeout=_CLOSE_SECONDS)
                yield Team(client, self.scheduler, self.resources)
                return
            local: Any = LocalCluster
            cluster = stack.enter_context(
                local(
                    n_workers=0,
                    processes=True,
                    silence_logs=logging.CRITICAL,
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"allowed_failures": _ALLOWED_FAILURES},
                )
            )
            client = stack.enter_context(self._client(Client, address=cluster.scheduler_address))
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            processes = _Processes(cluster.scheduler_address, Path(folder), self.local or 1, own_gpus=own_gpus)
            stack.callback(processes.end)
            yield Team(client, "this machine", self.resources, processes)

    def _client(self, client: Any, **options: Any) -> Any:
        try:
            return client(**options, timeout=self.connect_seconds, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise StoreError(
                f"no dask scheduler answers at {self.scheduler or 'this machine'} ({str(error).splitlines()[0]}). "
                "Give the address that it prints, such as tcp://10.0.0.5:8786, or its scheduler file.",
                code="E_CLUSTER",
            ) from error


def parse_resources(texts: list[str]) -> dict[str, float]:
    """Read `GPU=1` and the like; raises `UsageError`."""
    resources = {}
    for text in texts:
        name, equals, amount = text.partition("=")
        try:
            resources[name] = float(amount)
        except ValueError:
            equals = ""
        if not (name and equals and resources[name] > 0):
            raise UsageError(f"--worker-resource {text}: expected NAME=AMOUNT, such as GPU=1.")
    return resources


class Team:
    """Workers that may come and go; `tend` is to be called all the time."""

    def __init__(
        self, client: Any, where: str, resources: Mapping[str, float], processes: "_Processes | None" = None
    ) -> None:
        self.client = client
        self.where = where
        self.resources = dict(resources)
        self.threads = 0
        """Units that can be worked on at the same time, as far as is known."""
        self._processes = processes
        self._counted = self._had_workers = self._said = time.monotonic() - _COUNT_SECONDS
        if processes is None or importlib.util.find_spec("bokeh") is not None:
            with suppress(KeyError):  # a scheduler without one
                say(f"dashboard: {client.dashboard_link}")

    def tend(self) -> None:
        """Count the workers, start local ones anew that have ended; raises `StoreError` `E_CLUSTER`."""
        now = time.monotonic()
        if self.client.status not in ("running", "connecting", "newly-created"):
            raise self._lost()
        if self._processes is not None:
            self._processes.restart()
        if now - self._counted < _COUNT_SECONDS:
            return
        self._counted = now
        try:
            self.threads = sum(self.client.nthreads().values())
        except (OSError, ValueError, TimeoutError) as error:
            raise self._lost() from error
        if self.threads:
            self._had_workers = self._said = now
            if self._processes is not None:
                self._processes.ever_worked = True
        elif now - self._said > _WAITING_SECONDS:
            self._said = now
            say(f"no worker at {self.where} for {now - self._had_workers:.0f} s; waiting for one")

    def _lost(self) -> StoreError:
        return StoreError(
            f"the dask scheduler at {self.where} is gone. What is committed is safe; run the same command again when "
            "there is one.",
            code="E_CLUSTER",
        )


class _Processes:
    """Worker processes of this machine, each restarted when it ends."""

    def __init__(self, address: str, folder: Path, count: int, *, own_gpus: bool) -> None:
        self.ever_worked = False
        self._address = address
        self._folder = folder
        self._gpus = _gpus() if own_gpus else []
        self._deaths = 0
        self._processes = [self._start(number) for number in range(count)]

    def _start(self, number: int) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "DASK_LOGGING__DISTRIBUTED": "critical"}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[number % len(self._gpus)]
        return subprocess.Popen(
            # -P: the folder that the run was started in is no place for modules.
            [sys.executable, "-P", "-m", "distributed.cli.dask_worker", self._address, *_OPTIONS, self._folder],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def restart(self) -> None:
        for number, process in enumerate(self._processes):
            if (code := process.poll()) is None:
                continue
            self._deaths += 1
            if not self.ever_worked and self._deaths > _DEATHS_BEFORE_ANY_WORKS * len(self._processes):
                raise StoreError(
                    f"local workers do not start: the last ended with {code}. See the messages above.", code="E_CLUSTER"
                )
            self._processes[number] = self._start(number)

    def end(self) -> None:
        for process in self._processes:
            process.terminate()
        until = time.monotonic() + _CLOSE_SECONDS
        for process in self._processes:
            try:
                process.wait(max(until - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                process.kill()  # it encodes: nobody waits for what that would give
                process.wait()


def _gpus() -> list[str]:
    """The GPUs that this process may use, by their names for `CUDA_VISIBLE_DEVICES`."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in allowed.split(",") if name]
    torch = loaded_module("torch")
    return [] if torch is None else [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Say in one line of our own what dask's loggers say in many; restored afterwards."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
