"""The live page in a real browser, and what is registered behind it, for tests and for the pictures in the docs."""

from __future__ import annotations

import json
import socket
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from urllib.parse import quote

import httpx
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

__all__ = [
    "Longest",
    "Visit",
    "deregister",
    "is_live",
    "node",
    "register",
    "register_many",
    "visit",
    "weak_contrast",
]

_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""
_LONGEST = """() => {
  window.longest = 0;
  const note = (list) => list.getEntries().forEach((entry) => (longest = Math.max(longest, entry.duration)));
  new PerformanceObserver(note).observe({type: "longtask"});
}"""
_CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (byte) => (byte / 255 <= 0.04045 ? byte / 255 / 12.92 : ((byte / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = rgba(getComputedStyle(element).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255];
  };
  const weak = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!text || !element.checkVisibility() || !element.getClientRects().length) continue;
    const [a, b] = [rgba(getComputedStyle(element).color), behind(element)].map(luminance).sort((x, y) => x - y);
    const ratio = (b + 0.05) / (a + 0.05);
    if (ratio < 4.5) weak.push(`${ratio.toFixed(2)} ${element.className || element.tagName}: ${element.textContent}`);
  }
  return weak;
}"""
_NETWORK = "Failed to load resource"


class Visit:
    """One visit of the page, and everything in it that should not be: errors, violations, requests elsewhere."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        self.lost: list[str] = []
        """What the browser says of requests that failed."""
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        page.on("dialog", lambda dialog: self.errors.append(f"a dialog: {dialog.message}"))
        page.on("request", self._asked)
        page.add_init_script(_VIOLATIONS)

    def go(self, hash: str = "", path: str = "/") -> Page:
        """Open the page, or another view of it."""
        self.page.goto(f"{self.url}{path}{hash}")
        return self.page

    def check(self) -> None:
        """Fail for whatever should not be."""
        assert self.errors == []
        assert self.page.evaluate("window.violations") == []

    def _said(self, message: ConsoleMessage) -> None:
        if message.text.startswith(_NETWORK):
            self.lost.append(message.text)
        elif message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith(f"{self.url}/"):
            self.errors.append(f"a request to {request.url}")


@contextmanager
def visit(browser: Browser, url: str, **context: object) -> Generator[Visit]:
    """A visit in a context of its own (what :meth:`Browser.new_context` takes), which is to be without fault."""
    options: dict[str, object] = {"viewport": {"width": 1280, "height": 800}} | context
    made = browser.new_context(**options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    try:
        visited = Visit(made.new_page(), url)
        yield visited
        visited.check()
    finally:
        made.close()


def is_live(page: Page, timeout: float = 15.0) -> None:
    """Wait until the page follows the server."""
    expect(page.locator("#state")).to_have_text("Live", timeout=timeout * 1000)


class Longest:
    """For how long the page was too busy to answer at most, from when this is made."""

    def __init__(self, page: Page) -> None:
        self._page = page
        page.evaluate(_LONGEST)

    @property
    def ms(self) -> float:
        """Milliseconds."""
        return float(self._page.evaluate("longest"))


def weak_contrast(page: Page) -> list[str]:
    """Every text with less contrast than 4.5 : 1 (WCAG 2.2, 1.4.3)."""
    found: list[str] = page.evaluate(_CONTRAST)
    return found


def node(id: str, address: str = "10.0.0.1:80", status: str = "passing", **metadata: str) -> dict[str, object]:
    """A node as JSON has it."""
    return {"id": id, "address": address, "status": status, "metadata": metadata}


def register(
    http: httpx.Client,
    name: str,
    *nodes: Mapping[str, object],
    version: str = "1.0",
    shared: Mapping[str, str] | None = None,
    endpoints: Iterable[Mapping[str, object]] = (),
) -> None:
    """Register nodes of a service, or change them."""
    record = {"name": name, "version": version, "metadata": dict(shared or {}), "endpoints": list(endpoints)}
    for each in nodes:
        path = f"/v1/services/{quote(name, safe='')}/nodes/{quote(str(each['id']), safe='')}?ttl=600s"
        answer = http.put(path, json=record | {"nodes": [each]})
        assert answer.status_code == 204, answer.text


def register_many(port: int, records: Iterable[tuple[str, Mapping[str, object]]]) -> None:
    """Register one node for each name, all on one connection and without waiting between them."""
    requests: list[bytes] = []
    for name, each in records:
        body = json.dumps({"name": name, "version": "1.0", "nodes": [each]}).encode()
        line = f"PUT /v1/services/{name}/nodes/{each['id']}?ttl=600s HTTP/1.1"
        requests.append(f"{line}\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for start in range(0, len(requests), 100):
            batch = requests[start : start + 100]
            connection.sendall(b"".join(batch))
            answers = b""
            while answers.count(b"HTTP/1.1 204") < len(batch):
                data = connection.recv(65536)
                assert data, answers[-500:]
                answers += data


def deregister(http: httpx.Client, name: str, *ids: str) -> None:
    """Withdraw nodes of a service."""
    for id in ids:
        assert http.delete(f"/v1/services/{name}/nodes/{id}").status_code == 204
