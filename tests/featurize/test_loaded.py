"""A module that another thread is loading is waited for, and one that nobody loads stays unloaded."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from amma.featurize.loaded import loaded_module

NAME = "a_module_that_takes_its_time"


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / f"{NAME}.py").write_text("import time\ntime.sleep(0.3)\nlast = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield NAME
    sys.modules.pop(NAME, None)


def test_a_module_that_nobody_loads_stays_unloaded(slow: str) -> None:
    assert loaded_module(slow) is None
    assert slow not in sys.modules


def test_a_module_that_another_thread_is_loading_is_waited_for(slow: str) -> None:
    other = threading.Thread(target=__import__, args=(slow,))
    other.start()
    while slow not in sys.modules:
        pass
    assert not hasattr(sys.modules[slow], "last")
    module = loaded_module(slow)
    assert module is not None
    assert module.last == 7
    other.join()
