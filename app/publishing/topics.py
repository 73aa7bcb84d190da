"""Topic names under `<root>/<node>/…`, and how each is delivered."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from app.publishing.errors import PublishError

DEFAULT_ROOT = "event-captioner"


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a kind of message travels: retained by the broker or not, and its quality of service."""

    retain: bool
    qos: int


STATUS = Delivery(retain=True, qos=1)
INFO = Delivery(retain=True, qos=1)
CAMERA_STATUS = Delivery(retain=True, qos=1)
CAPTION = Delivery(retain=False, qos=1)
LAST_CAPTION = Delivery(retain=True, qos=1)
DRAFT = Delivery(retain=False, qos=0)
TELEMETRY = Delivery(retain=False, qos=0)
RESULT = Delivery(retain=False, qos=1)


def check_name(kind: str, name: str) -> str:
    """`name` itself, when it can be one level of a topic.

    Raises PublishError when it is empty, or holds `/`, `+` or `#`, which would change the topic tree, or what MQTT
    forbids (control characters, undecodable bytes).
    """
    if not name:
        raise PublishError(f"{kind} name is empty: give it at least one character")
    bad = sorted({c for c in name if c in "/+#" or unicodedata.category(c) in ("Cc", "Cs")})
    if bad:
        found = ", ".join(repr(c) for c in bad)
        raise PublishError(
            f"{kind} name {name!r}: {found} cannot be in an MQTT topic level; use letters, digits and '-'"
        )
    return name


def replay_node(node: str) -> str:
    """The node a replay publishes under, so that it can never be taken for the robot."""
    return f"replay-{node}"


class Topics:
    """The topics of one node."""

    def __init__(self, node: str, root: str = DEFAULT_ROOT) -> None:
        self.base = f"{check_name('root', root)}/{check_name('node', node)}"
        self.status = f"{self.base}/status"
        self.info = f"{self.base}/info"

    def camera_status(self, camera: str) -> str:
        return self._camera(camera, "status")

    def caption(self, camera: str) -> str:
        return self._camera(camera, "caption")

    def last_caption(self, camera: str) -> str:
        return self._camera(camera, "caption/last")

    def draft(self, camera: str) -> str:
        return self._camera(camera, "draft")

    def telemetry(self, camera: str) -> str:
        return self._camera(camera, "telemetry")

    @property
    def commands(self) -> str:
        """The filter that every command matches, and no result."""
        return f"{self.base}/command/+"

    def command(self, topic: str) -> str | None:
        """The command that a topic names, if it does."""
        head, _, name = topic.rpartition("/")
        return name if head == f"{self.base}/command" else None

    def result(self, command: str) -> str:
        return f"{self.base}/command/{check_name('command', command)}/result"

    def _camera(self, camera: str, leaf: str) -> str:
        return f"{self.base}/camera/{check_name('camera', camera)}/{leaf}"
