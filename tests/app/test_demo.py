"""The demo as `make demo` runs it: the bundled pair, the bundled recording, a broker of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.commands.demo import RECORDING
from app.config import BUNDLED_PAIR

PROJECT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (RECORDING.exists() and (BUNDLED_PAIR / "target").exists()), reason="the demo pair is not in this checkout"
)


def test_the_demo_captions_publishes_and_compares(tmp_path: Path) -> None:
    """A separate subscriber hears ten captions or more, and telemetry of every one of their frames."""
    config = tmp_path / "demo.yaml"
    config.write_text("mqtt: {url: 'mqtt://127.0.0.1:9'}\n")  # nobody answers there: the demo starts its own broker
    picture = tmp_path / "demo.svg"
    command = [sys.executable, "-u", "-m", "app", "demo", "--config", str(config), "--picture", str(picture)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout
        out, heard = "", None
        messages_file = tmp_path / "heard"
        for line in demo.stdout:
            out += line
            if found := re.search(r"mosquitto_sub (-h \S+ -p \S+ -t) '(\S+)'", line):
                listen = ["mosquitto_sub", *found[1].split(), found[2], "-F", "%t %p"]
                with messages_file.open("w") as file:
                    heard = subprocess.Popen(listen, stdout=file)
    assert demo.returncode == 0
    assert heard
    heard.terminate()
    heard.wait(10)
    messages = [line.split(" ", 1) for line in messages_file.read_text().splitlines()]
    captions = [json.loads(payload) for topic, payload in messages if topic.endswith("/caption")]
    telemetry = {json.loads(payload)["id"]: json.loads(payload) for topic, payload in messages if "telemetry" in topic}
    assert len(captions) >= 10
    assert len({caption["text"] for caption in captions}) >= 2, "the demo says one thing whatever it sees"
    for caption in captions:
        assert caption["models"]["demo"]
        assert len(telemetry[caption["id"]]["frames"]) >= caption["window"]["frames"]
    assert re.search(rf"same words as the target alone\W+{len(captions)} of {len(captions)}", out)
    assert picture.read_text().startswith("<svg")
