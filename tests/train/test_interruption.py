import os
import signal
import subprocess
import sys
import threading

import pytest

from amma.train.run.interruption import Interruption


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_is_noted_and_handlers_come_back(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption
        os.kill(os.getpid(), number)
        assert interruption
        assert isinstance(interruption, Interruption)
        assert interruption.exit_code == code
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_the_process_at_once() -> None:
    program = (
        "import os, signal, time; from amma.train.run.interruption import Interruption\n"
        "with Interruption():\n"
        "    os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30)
    assert ended.returncode == -signal.SIGTERM
    assert b"finishing this step" in ended.stderr


def test_outside_the_main_thread_nothing_is_touched() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with Interruption() as interruption:
            seen.extend([signal.getsignal(signal.SIGTERM) is before, bool(interruption)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True, False]


def test_of_several_processes_signals_that_follow_at_once_are_one_request(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []
    with Interruption(several=True, speaks=False) as interruption:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert isinstance(interruption, Interruption)
        assert interruption.exit_code == 143
        monkeypatch.setattr("amma.train.run.interruption.SAME_REQUEST_SECONDS", 0.0)
        monkeypatch.setattr(os, "kill", lambda pid, number: ended.append(number))
        signal.raise_signal(signal.SIGINT)
        assert ended == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert capfd.readouterr().err == ""
