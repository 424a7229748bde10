import pytest
import torch

from amma.manifests.errors import UsageError
from amma.train.data.loader import Loader
from amma.train.run.arithmetic import arithmetic, find_device, one_thread


def test_threads_and_determinism_hold_inside_and_are_restored_after() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with arithmetic(2, torch.device("cpu")) as threads:
        assert threads == torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_reading_threads_do_not_take_the_threads_of_the_arithmetic() -> None:
    with arithmetic(2, torch.device("cpu")):
        with Loader(lambda number: torch.get_num_threads(), 0, 6, threads=3, ahead=3, begin=one_thread) as counts:
            assert set(counts) == {1}
        assert torch.get_num_threads() == 2


def test_a_device_that_is_not_there_is_an_error_that_says_what_to_do() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UsageError, match="no device 'warp'"):
        find_device("warp")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="sees no GPU here"):
            find_device("cuda")
