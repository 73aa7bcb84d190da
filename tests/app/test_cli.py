"""The commands as a user calls them: what they do, their exit codes, one line for each error and never a traceback."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from app.cli import COMMANDS, main
from tests.conftest import Mosquitto

PROJECT = Path(__file__).parents[2]
DAVIS = PROJECT.parent / "shared" / "data" / "davis346.aedat4"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], cache: Path) -> Run:
    """Call a command in this process: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["event-captioner", *map(str, arguments)])
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return int(end.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where calibrations are kept: one for all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of a tiny real pair."""
    pytest.importorskip("torch", reason="writing the tiny pair needs torch")
    from tests.models.tiny import make_pair

    folder = tmp_path_factory.mktemp("pair")
    drafter, target = make_pair(folder, seed=1)
    path = folder / "tiny.yaml"
    path.write_text(
        f"node: tester\nmodels: {{drafter: {{path: {drafter}}}, target: {{path: {target}}}}}\n"
        "decoding: {max_new_tokens: 8}\nwindows: {length_ms: 500, hop_ms: 500}\ntelemetry: {log_level: warning}\n"
    )
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of street."""
    from app.sensors.synthetic import RESOLUTION, synthetic_items
    from app.sensors.writer import write_recording

    path = tmp_path_factory.mktemp("street") / "street.aedat4"
    write_recording(path, synthetic_items(1, 2.0), RESOLUTION, "SYNTHETIC_1")
    return path


def test_help_names_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Usage:" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["replay"],
        ["replay", "x.aedat4", "--speed", "0"],
        ["replay", "x.aedat4", "--mqtt", "mqtt://localhost", "--no-mqtt"],
        ["replay", "x.aedat4", "--rgb", "v.mp4", "--frames", "reconstruct"],
        ["synthesize", "x.mp4"],
        ["check-config"],
        ["check-config", "absent.yaml"],
        ["replay", "x.aedat4", "--config", "absent.yaml"],
        ["replay", "x.aedat4", "--strategy", "magic"],
        ["replay", "x.aedat4", "--speed", "nan"],
        ["replay", "x.aedat4", "--speed", "inf"],
        ["replay", "x.aedat4", "--start", "nan"],
        ["replay", "x.aedat4", "--start", "inf"],
        ["replay", "x.aedat4", "--duration", "inf"],
        ["replay", "x.aedat4", "--rgb-offset-ms", "nan"],
        ["replay", "x.aedat4", "--rgb-offset-ms=-inf"],
        ["replay", "x.aedat4", "--captions", "x.txt"],
        ["replay", "x.aedat4", "--captions", "absent/x.srt"],
        ["replay", "x.aedat4", "--trace", "absent/x.json"],
        ["replay", "x.aedat4", "--mqtt", "http://x"],
        ["demo", "--picture", "absent/x.svg"],
        ["bench", "--json", "absent/x.json"],
    ],
)
def test_usage_and_configuration_exit_2(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert not out
    assert err


def test_an_output_that_cannot_be_written_is_named(run: Run) -> None:
    _, _, err = run("replay", "x.aedat4", "--trace", "absent/x.json")
    told = " ".join(err.replace("│", " ").split())
    assert "absent/x.json: there is no folder absent; make it first" in told


def test_an_error_of_the_system_in_a_task_group_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        full = OSError(errno.ENOSPC, "No space left on device", "out.json")
        raise ExceptionGroup("tasks", [ExceptionGroup("tasks", [full])])

    monkeypatch.setattr("app.cli.cli", fail)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert capfd.readouterr().err == "event-captioner: out.json: No space left on device\n"


def test_check_config(run: Run, tmp_path: Path) -> None:
    assert run("check-config", PROJECT / "configs" / "demo.yaml")[0] == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text("windows: {length_ms: 1}\nnod: x\n")
    code, _, err = run("check-config", bad)
    assert code == 2
    assert err.splitlines() == [
        f"event-captioner: {bad}:1: windows.length_ms: 1 is not a whole number from 10 to 60000",
        f"event-captioner: {bad}:2: nod: unknown key; did you mean node?",
    ]
    code, _, _ = run("check-config", "--write-schema", tmp_path / "schema.json")
    assert code == 0
    assert (tmp_path / "schema.json").read_text() == (PROJECT / "configs" / "schema.json").read_text()


def test_synthesize_then_info(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "street.aedat4"
    code, out, _ = run("synthesize", path, "--seed", 3, "--seconds", 0.5, "--json")
    assert code == 0
    written = json.loads(out)
    code, out, _ = run("info", path, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["events"], found["frames"]) == (written["events"], written["frames"])
    code, out, _ = run("info", path)
    assert code == 0
    assert f"{written['events']:,}" in out


def test_info_shows_what_a_file_says_as_it_is(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "[b]street.aedat"
    path.write_bytes(
        b"#!AER-DAT3.1\r\n#Source 1: DAVIS346 [/b]\r\n#!END-HEADER\r\n"
        + struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, 2, 2, 2)
        + struct.pack("<IiIi", 3, 1000, 3, 2000)
    )
    code, out, err = run("info", path)
    assert (code, err) == (0, "")
    assert "DAVIS346 [/b]" in out
    assert path.name in "".join(out.split())  # the title is broken where the table ends


@pytest.mark.parametrize("command", ["info", "replay"])
def test_a_missing_or_foreign_recording_is_one_line(run: Run, tmp_path: Path, config: Path, command: str) -> None:
    extra = ["--no-mqtt", "--config", config, "--captions", tmp_path / "out.srt"] if command == "replay" else []
    foreign = tmp_path / "foreign.aedat4"
    foreign.write_bytes(b"not a recording" * 100)
    for path in (tmp_path / "absent.aedat4", foreign):
        code, _, err = run(command, path, *extra)
        assert code == 1
        assert err.startswith(f"event-captioner: {path}: ")
        assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("out*"))


def test_replay_writes_captions_and_a_trace(run: Run, config: Path, recording: Path, tmp_path: Path) -> None:
    captions, trace = tmp_path / "out.jsonl", tmp_path / "trace.json"
    code, out, _ = run(
        *("replay", recording, "--config", config, "--speed", "max", "--no-mqtt"),
        *("--captions", captions, "--trace", trace, "--json"),
    )
    assert code == 0
    report = json.loads(out)
    payloads = [json.loads(line) for line in captions.read_text().splitlines()]
    assert report["captions"] == len(payloads) == 4
    assert [payload["seq"] for payload in payloads] == [0, 1, 2, 3]
    assert {payload["node"] for payload in payloads} == {"replay-tester"}
    assert json.loads(trace.read_text())


@pytest.mark.parametrize("strategy", ["autoregressive", "speculative"])
def test_every_strategy_says_the_same(run: Run, config: Path, recording: Path, tmp_path: Path, strategy: str) -> None:
    texts = []
    for name in (strategy, "prefill_hiding"):
        path = tmp_path / f"{name}.jsonl"
        arguments = ["replay", recording, "--config", config, "--strategy", name, "--speed", "max", "--no-mqtt"]
        assert run(*arguments, "--captions", path)[0] == 0
        payloads = [json.loads(line) for line in path.read_text().splitlines()]
        assert {payload["decoding"]["strategy"] for payload in payloads} == {name}
        texts.append([payload["text"] for payload in payloads])
    assert texts[0] == texts[1]


def test_replay_publishes_and_shows(run: Run, config: Path, recording: Path, mosquitto: Mosquitto) -> None:
    listen = [*("mosquitto_sub", "-p", str(mosquitto.port), "-t", "event-captioner/#", "-W", "20", "-F", "%t %p")]
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as listener:
        time.sleep(0.3)
        code, out, _ = run("replay", recording, "--config", config, "--speed", 4, "--mqtt", mosquitto.url)
        time.sleep(0.3)
        listener.terminate()
        heard = listener.communicate()[0].splitlines()
    assert code == 0
    assert out.count("verified +") == 4
    assert "sensor to caption" in out
    topics = [line.split(" ")[0].removeprefix("event-captioner/replay-tester/") for line in heard]
    assert topics.count("camera/SYNTHETIC_1/caption") == 4
    assert topics.count("camera/SYNTHETIC_1/telemetry") == 4
    assert '"state":"stopped"' in heard[-1]


def test_an_absent_broker_is_one_line(run: Run, config: Path, recording: Path) -> None:
    code, _, err = run("replay", recording, "--config", config, "--mqtt", "mqtt://127.0.0.1:9")
    assert code == 1
    assert len(err.splitlines()) == 1
    assert err.startswith("event-captioner: broker 127.0.0.1:9: no connection")


def test_a_refusing_broker_is_one_line(run: Run, config: Path, recording: Path, refusing_mosquitto: Mosquitto) -> None:
    code, _, err = run("replay", recording, "--config", config, "--mqtt", refusing_mosquitto.url)
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "refused the connection" in err


def test_a_torn_recording_gives_every_caption_up_to_the_tear(
    run: Run, config: Path, recording: Path, tmp_path: Path
) -> None:
    torn, captions = tmp_path / "torn.aedat4", tmp_path / "out.srt"
    whole = recording.read_bytes()
    torn.write_bytes(whole[: len(whole) * 6 // 10])
    code, out, err = run(*("replay", torn, "--config", config, "--speed", "max", "--no-mqtt", "--captions", captions))
    assert code == 1
    assert err.splitlines()[-1].startswith(f"event-captioner: {torn}: ")
    cues = captions.read_text().count(" --> ")
    assert cues == out.count("verified +") >= 2


def test_the_two_ways_out_without_frames(run: Run, config: Path, tmp_path: Path) -> None:
    import cv2
    import numpy as np

    from tests.app.sensors.samples import recording as sample

    path, video = sample(tmp_path / "events.aedat4", 1.0, frames=False), tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 20, (64, 48))
    for _ in range(20):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    arguments = ["replay", path, "--config", config, "--speed", "max", "--no-mqtt", "--json"]
    code, _, err = run(*arguments)
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "--rgb VIDEO" in err
    assert "--frames reconstruct" in err
    for way_out in (["--frames", "reconstruct"], ["--rgb", video, "--rgb-offset-ms", 0]):
        code, out, _ = run(*arguments, *way_out)
        assert code == 0
        assert json.loads(out)["captions"] == 2


def test_a_video_beside_the_recording_is_told_and_fails(run: Run, config: Path, tmp_path: Path) -> None:
    from tests.app.sensors.samples import recording as sample
    from tests.app.sensors.test_wrappers import video

    path = sample(tmp_path / "events.aedat4", 1.0, frames=False)
    arguments = ["replay", path, "--config", config, "--speed", "max", "--no-mqtt", "--rgb", video(tmp_path / "v.avi")]
    code, out, err = run(*arguments, "--rgb-offset-ms", 9e6)
    assert code == 1
    assert "2 no_frames" in out
    told = [line for line in err.splitlines() if line.startswith("event-captioner: ")]
    assert told == [
        f"event-captioner: {tmp_path / 'v.avi'}: no frame of it falls into the recording; check --rgb-offset-ms",
        "event-captioner: no window was captioned: 2 no_frames; the target needs frames: check --rgb-offset-ms",
    ]


def test_what_is_lost_is_told(run: Run, config: Path, tmp_path: Path) -> None:
    from tests.app.sensors.samples import recording as sample

    path = sample(tmp_path / "odd.aedat4", 1.1)
    arguments = ["replay", path, "--config", config, "--speed", "max", "--no-mqtt"]
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    assert json.loads(out)["lost"] == {"dropped_remainders": 1}
    assert "ends shorter than half a window" in run(*arguments)[1]


def test_without_events_the_target_captions_alone(run: Run, config: Path, tmp_path: Path) -> None:
    from tests.app.sensors.samples import recording as sample

    path = sample(tmp_path / "frames.aedat4", 1.0, events=False)
    code, out, _ = run("replay", path, "--config", config, "--speed", "max", "--no-mqtt", "--json")
    assert code == 0
    assert json.loads(out)["captions"] == 2


def test_a_bad_model_is_one_line(run: Run, config: Path, recording: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("models: {drafter: {path: nowhere}}\n")
    captions = tmp_path / "out.jsonl"
    before = _readers()
    code, _, err = run("replay", recording, "--config", bad, "--no-mqtt", "--captions", captions)
    assert code == 1
    assert err.startswith(f"event-captioner: {tmp_path / 'nowhere'}: ")
    assert not captions.exists()
    assert _readers() <= before, "the recording is still open"


def _readers() -> set[int]:
    """Reader processes of recordings that this process has open."""
    return {child.pid for child in psutil.Process().children() if "app.sensors.reader" in child.cmdline()}


def test_a_question_with_a_placeholder_is_one_line(run: Run, config: Path, recording: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(config.read_text().replace("{max_new_tokens", "{question: 'Is <video> real?', max_new_tokens"))
    code, _, err = run("replay", recording, "--config", bad, "--no-mqtt")
    assert code == 1
    assert len(err.splitlines()) == 1
    assert err.startswith("event-captioner: decoding.question: ")


def _process(
    arguments: list[object], cache: Path, code: str = "from app.cli import main; main()"
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.argv = {['ec', *map(str, arguments)]!r}; {code}"],
        cwd=PROJECT,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_captioning_imports_no_torch(config: Path, recording: Path, cache: Path) -> None:
    blocked = "sys.modules.update(torch=None, transformers=None, onnx=None); from app.cli import main; main()"
    arguments: list[object] = ["replay", recording, "--config", config, "--speed", "max", "--no-mqtt", "--json"]
    with _process(arguments, cache, blocked) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["captions"] == 4


def test_ctrl_c_exits_130_with_the_table(config: Path, recording: Path, cache: Path, mosquitto: Mosquitto) -> None:
    arguments: list[object] = ["replay", recording, "--config", config, "--loop", 0, "--mqtt", mosquitto.url]
    with _process(arguments, cache) as process:
        assert process.stdout
        for line in process.stdout:
            if "verified +" in line:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "sensor to caption" in out


def test_a_reader_that_goes_away_ends_the_replay_quietly(config: Path, recording: Path, cache: Path) -> None:
    with _process(["replay", recording, "--config", config, "--loop", 0, "--no-mqtt"], cache) as process:
        assert process.stdout
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr
        assert process.stderr.read() == ""


@pytest.mark.skipif(not DAVIS.exists(), reason="../shared/data/davis346.aedat4 is not there")
def test_a_real_recording_is_accounted_for(run: Run, config: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.yaml"
    whole.write_text(config.read_text().replace("windows: {length_ms: 500, hop_ms: 500}\n", ""))
    captions = tmp_path / "out.jsonl"
    code, _, _ = run("replay", DAVIS, "--config", whole, "--speed", "max", "--no-mqtt", "--captions", captions)
    assert code == 0
    (payload,) = [json.loads(line) for line in captions.read_text().splitlines()]
    assert payload["window"]["events"] == 117_667
    assert payload["window"]["frames"] == payload["window"]["grey_frames"] == 3
