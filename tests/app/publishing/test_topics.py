import pytest

from app.publishing import topics
from app.publishing.broker import Broker, parse_url, read_password
from app.publishing.errors import PublishError


@pytest.mark.parametrize("bad", ["", "a/b", "a+", "#", "a\x00", "a\nb", "a\udcff"])
def test_bad_names_are_refused(bad: str) -> None:
    with pytest.raises(PublishError, match="node name"):
        topics.Topics(bad)
    with pytest.raises(PublishError, match="camera name"):
        topics.Topics("robot").caption(bad)


def test_names() -> None:
    names = topics.Topics(topics.replay_node("robot"))
    assert names.status == "event-captioner/replay-robot/status"
    assert names.last_caption("front") == "event-captioner/replay-robot/camera/front/caption/last"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://localhost", Broker("localhost", 1883)),
        ("mqtts://anna@broker.example:9000/", Broker("broker.example", 9000, True, "anna")),
        ("mqtt://[::1]:1884", Broker("::1", 1884)),
    ],
)
def test_urls(url: str, expected: Broker) -> None:
    assert parse_url(url) == expected
    assert parse_url(expected.url) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "unknown scheme"),
        ("localhost:1883", "unknown scheme"),
        ("http://x", "unknown scheme 'http'"),
        ("mqtt://", "no usable host"),
        ("mqtt://x:0", "no usable port"),
        ("mqtt://x:99999", "Port out of range"),
        ("mqtt://x:y", "Port could not be cast"),
        ("mqtt://x/topic", "nothing may follow the port"),
        ("mqtt://a..b", "label"),
        ("mqtt://anna:secret@x", "holds a password"),
    ],
)
def test_bad_urls_are_one_line_without_secrets(url: str, reason: str) -> None:
    with pytest.raises(PublishError, match=reason) as caught:
        parse_url(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_passwords(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "password"
    file.write_text("one\ntwo\n")
    monkeypatch.setenv("BROKER_PASSWORD", "three")
    assert read_password() is None
    assert read_password(file=file) == "one"
    assert read_password("BROKER_PASSWORD") == "three"
    file.write_text("")
    for variable, path in (("NOT_SET_ANYWHERE", None), (None, file), (None, tmp_path / "absent"), ("X", file)):
        with pytest.raises(PublishError, match="broker password"):
            read_password(variable, path)
