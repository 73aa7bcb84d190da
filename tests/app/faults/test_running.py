"""Around a run: its folder, and no process that outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.faults.running import progress, run_folder
from tests.conftest import Mosquitto


def test_the_folder_of_a_failed_run_is_kept_and_that_of_another_one_is_not() -> None:
    with run_folder("event-captioner-test-") as good:
        (good / "service.log").write_text("all is well")
    assert not good.exists()
    with pytest.raises(ValueError, match="broken"), run_folder("event-captioner-test-") as bad:
        raise ValueError("broken")
    assert bad.is_dir()
    bad.rmdir()


def test_a_run_ends_by_sigterm_as_by_ctrl_c_and_a_second_one_does_not_disturb_its_end() -> None:
    before, ended = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with run_folder("event-captioner-test-"):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                ended.append("well")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert ended == ["well"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_is_to_outlive_its_terminal_does() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts it
    try:
        with run_folder("event-captioner-test-"):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_progress_without_a_terminal_is_lines_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(every_s=60.0) as tell:
        tell("one")
        tell("two")
    assert capsys.readouterr().err == "one\n"


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("when", "number", "code"),
    [("loading", signal.SIGTERM, 130), ("round 1", signal.SIGTERM, 130), ("round 1", signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_fault_run_that_is_ended_leaves_no_process(
    when: str, number: int, code: int, mosquitto: Mosquitto, tiny_config: Path, tmp_path: Path
) -> None:
    mosquitto.stop()  # it is installed; the run has its own
    command = [sys.executable, "-c", "from app.cli import main; main()", "fault-run", "--rounds", "50"]
    command += ["--config", str(tiny_config)]
    env = {**os.environ, "TMPDIR": str(tmp_path)}  # where a killed run leaves its folder
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    for line in process.stderr:
        if when in line:
            break
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) == 3, "broker, feed and service"
    process.send_signal(number)
    assert process.wait(60) == code
    process.stderr.close()
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
