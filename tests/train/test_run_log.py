import resource
from pathlib import Path

import pytest

from amma.manifests.errors import CheckpointError
from amma.train.run.log import RunLog, read_log


def test_what_was_logged_after_the_checkpoint_is_cut_off_on_resume(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    log.write({"step": 0})
    kept = log.sync()
    log.write({"step": 1, "loss": 9.0})
    log.close()
    again = RunLog(tmp_path / "log.jsonl", keep=kept)
    assert again.cut > 0
    again.write({"step": 1, "loss": 1.0})
    again.close()
    assert read_log(tmp_path / "log.jsonl") == [{"step": 0}, {"step": 1, "loss": 1.0}]


def test_a_log_that_lost_what_the_checkpoint_saw_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"{}\n")
    with pytest.raises(CheckpointError, match="3 bytes, but it had 10"):
        RunLog(tmp_path / "log.jsonl", keep=10)


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 0}\n{"ste')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 0}]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        with pytest.raises(CheckpointError, match="make room") as caught:
            log.write({"step": 0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == "E_DISK"
    log.close()


def test_a_number_that_is_not_finite_never_enters_the_log(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    with pytest.raises(ValueError, match="JSON compliant"):
        log.write({"loss": float("nan")})
    log.close()
