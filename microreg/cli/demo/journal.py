"""What the demo's client did and heard, with times. Pure: knows no process, no registry, no terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from microreg.events import Action, Change, Event, Reason, Snapshot
from microreg.model import Node, Status

__all__ = ["Attempt", "Journal", "Line", "Story"]


@dataclass(frozen=True, slots=True)
class Line:
    """Something worth showing: seconds since the start, what kind, of which node (or none), in words."""

    at: float
    kind: str
    node: str
    text: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to one node; ``error`` is empty where it was answered."""

    at: float
    node: str
    error: str


@dataclass(slots=True)
class Story:
    """What happened to one node, in seconds since the start of the demo; None where it did not happen."""

    address: str = ""
    pid: int = 0
    started: float | None = None
    announced: float | None = None
    heard: float | None = None
    killed: float | None = None
    told_to_drain: float | None = None
    heard_draining: float | None = None
    heard_gone: float | None = None
    reason: Reason | None = None
    status: str = ""
    exit_code: int | None = None
    answered: int = 0
    errors: int = 0


@dataclass(slots=True)
class Journal:
    """The whole of it. ``clock`` gives seconds, each of ``listeners`` gets every line as it is written."""

    clock: Callable[[], float]
    listeners: list[Callable[[Line], None]] = field(default_factory=list[Callable[[Line], None]])
    stories: dict[str, Story] = field(default_factory=dict[str, Story])
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    failed_calls: list[str] = field(default_factory=list[str])
    calls: int = 0
    origin: float = field(init=False)

    def __post_init__(self) -> None:
        self.origin = self.clock()

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.origin

    @property
    def retries(self) -> int:
        """Requests that repeated another one on a node not yet tried."""
        return max(0, len(self.attempts) - self.calls)

    def story(self, node: str) -> Story:
        """The story of a node, begun where it is new."""
        return self.stories.setdefault(node, Story())

    def step(self, text: str) -> None:
        """The script goes on."""
        self._write("step", "", text)

    def start(self, node: str, pid: int) -> None:
        """The process of a node was started."""
        story = self.story(node)
        story.started, story.pid = self.now, pid
        self._write("started", node, f"process {pid}")

    def announce(self, node: str, ago: float = 0.0) -> None:
        """A node began to announce itself, ``ago`` seconds before now."""
        self.story(node).announced = self.now - ago

    def kill(self, node: str) -> None:
        """A node was killed."""
        self.story(node).killed = self.now
        self._write("killed", node, "SIGKILL: it cannot say goodbye")

    def drain(self, node: str) -> None:
        """A node was asked to leave."""
        self.story(node).told_to_drain = self.now
        self._write("asked", node, "SIGTERM: it drains, then ends")

    def ended(self, node: str, code: int) -> None:
        """The process of a node has ended."""
        self.story(node).exit_code = code
        self._write("ended", node, f"exit code {code}" if code >= 0 else f"signal {-code}")

    def hear(self, event: Event) -> None:
        """The watch told something."""
        if isinstance(event, Snapshot):
            for record in event.records:
                self._hear_node(record.nodes[0], "there already")
        elif event.action is Action.DELETE:
            self._hear_gone(event)
        else:
            self._hear_node(event.node, "came" if event.action is Action.CREATE else "changed")

    def attempt(self, node: str, began: float, error: str = "") -> None:
        """A request to a node, which began at ``began``, was answered, or failed with ``error``."""
        self.attempts.append(Attempt(began, node, error))
        story = self.story(node)
        if error:
            story.errors += 1
            if story.errors == 1:
                self._write("retry", node, f"{error}: asked another node instead (further ones are counted)")
        else:
            story.answered += 1
            if story.answered == 1:
                self._write("called", node, "answered its first call")

    def call(self, error: str = "") -> None:
        """A call, retries and all, has ended; ``error`` is empty where it was answered."""
        self.calls += 1
        if error:
            self.failed_calls.append(error)
            self._write("failed", "", error)

    def _hear_node(self, node: Node, verb: str) -> None:
        story = self.story(node.id)
        story.address, story.status = node.address, str(node.status)
        if story.heard is None:
            story.heard = self.now
        if node.status is Status.DRAINING and story.heard_draining is None:
            story.heard_draining = self.now
        status = "" if node.status is Status.PASSING else f", {node.status}"
        self._write("heard", node.id, f"{verb}: {node.address}{status}")

    def _hear_gone(self, change: Change) -> None:
        story = self.story(change.node.id)
        story.heard_gone, story.reason, story.status = self.now, change.reason, "gone"
        self._write("heard", change.node.id, f"gone: {change.reason}")

    def _write(self, kind: str, node: str, text: str) -> None:
        line = Line(self.now, kind, node, text)
        for listener in self.listeners:
            listener(line)
