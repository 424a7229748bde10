"""A folder has one owner, whoever asks together, and none that is dead."""

import json
import os
import random
import re
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amma.featurize.store import lock as locking
from amma.featurize.store.lock import LEASE_SECONDS, Owner, StoreLock
from amma.manifests.errors import StoreError


def hold(folder: Path, tell: int) -> None:
    """Own the folder until killed."""
    with StoreLock(folder):
        os.write(tell, b"x")
        time.sleep(60)


def forge(folder: Path, owner: Owner, *, silent: float = 0) -> Path:
    """An owner file as `owner` would have left it so many seconds ago."""
    path = folder / "lock"
    path.write_text(json.dumps({name: getattr(owner, name) for name in owner.__slots__}))
    now = time.time()
    os.utime(path, (now - silent, now - silent))
    return path


def is_free(folder: Path) -> bool:
    try:
        with StoreLock(folder):
            return True
    except StoreError as error:
        if error.code != "E_LOCKED":
            raise
        return False


def test_the_owner_is_named_and_holds_nothing_once_it_is_dead(tmp_path: Path, children: Any) -> None:
    ready, tell = os.pipe()
    owner = children.start(lambda: hold(tmp_path, tell))
    os.read(ready, 1)
    with pytest.raises(StoreError, match=f"in use by process {owner} on {socket.gethostname()} since .* Wait for it"):
        StoreLock(tmp_path).__enter__()
    os.kill(owner, signal.SIGKILL)
    while Path(f"/proc/{owner}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert is_free(tmp_path)  # not even collected by its parent yet
    children.wait(owner)
    assert is_free(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_process_may_not_own_a_folder_twice(tmp_path: Path) -> None:
    with StoreLock(tmp_path) as lock:
        assert not is_free(tmp_path)
        lock.check()
    assert is_free(tmp_path)


def test_a_process_number_that_was_given_anew_is_another_process(tmp_path: Path) -> None:
    forge(tmp_path, replace(Owner.myself(), started="1"))
    assert is_free(tmp_path)


@pytest.mark.parametrize("same_host", [True, False])
def test_an_owner_that_cannot_be_seen_is_dead_only_when_silent_for_long(tmp_path: Path, same_host: bool) -> None:
    # Another kernel, or another namespace of processes: that number 1 lives here says nothing of theirs.
    host = socket.gethostname() if same_host else "elsewhere"
    away = replace(Owner.myself(), host=host, processes="another kernel", pid=2**22 - 1)
    forge(tmp_path, away, silent=LEASE_SECONDS - 30)
    with pytest.raises(StoreError, match=rf"process {2**22 - 1} on {host} .* last heard of 57\d s ago") as caught:
        StoreLock(tmp_path).__enter__()
    assert re.search(r"free 10 minutes after it was last heard of, or when you remove .*/lock\.", str(caught.value))
    forge(tmp_path, away, silent=LEASE_SECONDS + 30)
    with StoreLock(tmp_path) as lock:
        lock.check()
        assert not is_free(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_is_somebody_until_it_was_silent_for_long(tmp_path: Path) -> None:
    for content in ("", "{}", "[1]", '{"pid": 3, "host": "a"}', "\0" * 9000):
        path = tmp_path / "lock"
        path.write_text(content)
        with pytest.raises(StoreError, match="in use by another process, last heard of"):
            StoreLock(tmp_path).__enter__()
        os.utime(path, (0, 0))
        assert is_free(tmp_path)
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(StoreError, match="is no plain file"):
        StoreLock(tmp_path).__enter__()
    assert not (tmp_path / "target").exists()


def test_an_owner_says_that_it_lives_and_notices_that_it_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with StoreLock(tmp_path, heartbeat=0.01, lease=0.5) as lock:
        os.utime(path, (0, 0))
        time.sleep(0.3)
        assert time.time() - path.stat().st_mtime < 10
        lock.check()
    slow = StoreLock(tmp_path, heartbeat=60.0)
    slow.__enter__()
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "processes": "another kernel"}))  # seen from another machine
    os.utime(path, (0, 0))
    with StoreLock(tmp_path) as lock:
        with pytest.raises(StoreError, match=f"no longer holds its lock, process {os.getpid()} on .* does") as caught:
            slow.check()
        assert caught.value.code == "E_LOCKED"
        slow.__exit__(None, None, None)  # and leaves the other's alone
        lock.check()
    assert list(tmp_path.iterdir()) == []
    with StoreLock(tmp_path) as lock:
        path.unlink()
        with pytest.raises(StoreError, match="no longer holds its lock, nobody does"):
            lock.check()


def test_without_hard_links_the_file_is_made_exclusively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with StoreLock(tmp_path) as lock:
        lock.check()
        assert not is_free(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_was_made_though_the_file_system_says_otherwise_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)  # a network file system that repeats a request it had no answer to

    monkeypatch.setattr(os, "link", twice)
    with StoreLock(tmp_path) as lock:
        lock.check()


def test_dead_at_any_operation_the_next_owner_is_in_at_once_and_nothing_is_left(
    memory_folder: Path, children: Any
) -> None:
    def use() -> None:
        for _ in range(2):
            with StoreLock(memory_folder) as lock:
                lock.check()

    for before in ("nobody", "a dead owner"):
        number, ended = 0, children.KILLED
        while ended:
            number += 1
            if before == "a dead owner":
                forge(memory_folder, replace(Owner.myself(), started="1"))
            ended = children.run_to_operation(number, use, below=memory_folder)
            assert ended in (0, children.KILLED)
            assert is_free(memory_folder)
            assert list(memory_folder.iterdir()) == [], (before, number)
        assert number > 7


@pytest.mark.parametrize("rounds", [160, pytest.param(1600, marks=pytest.mark.slow)])
def test_of_many_that_ask_at_once_and_die_at_random_one_owns_at_a_time(
    memory_folder: Path, children: Any, rounds: int
) -> None:
    held, folder = memory_folder / "held", memory_folder / "folder"
    folder.mkdir()
    counted = memory_folder / "counted"
    counted.write_text("0")

    def contend(seed: int) -> None:
        rng = random.Random(seed)
        done = 0
        while done < rounds // 4:
            try:
                with StoreLock(folder):
                    done += 1
                    # Only the owner is here: what it marks is gone, or left by an owner that died.
                    if held.exists():
                        owner = int(held.read_text() or "0")
                        assert not owner or not _lives(owner), f"{os.getpid()} and {owner} own it"
                    held.write_text(str(os.getpid()))
                    if rng.random() < 0.1:
                        os.kill(os.getpid(), signal.SIGKILL)
                    time.sleep(rng.random() * 0.002)
                    counted.write_text(str(int(counted.read_text() or "0") + 1))
                    held.unlink()
            except StoreError as error:
                if error.code != "E_LOCKED":
                    raise
                time.sleep(rng.random() * 0.002)

    running = {children.start(lambda seed=seed: contend(seed)): seed for seed in range(4)}
    seed, killed = 4, 0
    while running:
        child, status = os.wait()
        ended = os.waitstatus_to_exitcode(status)
        assert ended in (0, children.KILLED)
        running.pop(child)
        if ended:
            killed += 1
            if killed < rounds // 8:  # another takes its place
                running[children.start(lambda seed=seed: contend(seed))] = seed
                seed += 1
    assert killed > 2
    assert int(counted.read_text()) > rounds // 4
    assert is_free(folder)
    assert list(folder.iterdir()) == []


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(locking.Path, "open", refused)
    with pytest.raises(StoreError, match=r"cannot be written to \(Permission denied\)"):
        StoreLock(tmp_path).__enter__()


def test_the_owner_file_has_all_that_a_person_needs(tmp_path: Path) -> None:
    with StoreLock(tmp_path):
        content = json.loads((tmp_path / "lock").read_text())
    assert content["host"] == socket.gethostname()
    assert content["pid"] == os.getpid()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", content["since"])
    assert Owner.myself().token != content["token"]
