"""Takes the pictures of the live page in docs/images, from a real server in a real browser.

``python docs/screenshots.py [FOLDER]``. Needs what the page's tests need (tests/servers/chromium.py), and makes the
pictures small with ``pngquant``, which it gets in the same way.
"""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha1
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browsing import deregister, is_live, node, register, visit  # noqa: E402
from debian import obtain  # noqa: E402
from microreg.testing import ServerProcess  # noqa: E402
from servers import microreg_server  # noqa: E402
from servers.chromium import chromium  # noqa: E402

NAMES = (
    "basket billing catalog checkout fraud-check identity images inventory mail orders payments prices ratings search "
    "sessions shipping users"
).split()
COUNTS = (3, 2, 6, 4, 2, 3, 8, 4, 2, 5, 3, 4, 2, 26, 6, 3, 5)
SERVICES: dict[str, int] = dict(zip(NAMES, COUNTS, strict=True))
ORDER, ID = {"name": "order", "type": "Order"}, {"name": "id", "type": "string"}
ENDPOINTS = [
    {"name": "Orders.Create", "request": ORDER, "response": ID},
    {"name": "Orders.Get", "request": ID, "response": ORDER},
]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 800}


def main() -> None:
    """Take them all."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as home, chromium(Path(home), "fonts-inter", sans="Inter") as browser:
        with microreg_server() as server:
            _take_all(browser, server, folder)


def _take_all(browser: Browser, server: ServerProcess, folder: Path) -> None:
    url = f"http://127.0.0.1:{server.port}"
    with httpx.Client(base_url=url) as http:
        _populate(http)
        with (
            visit(browser, url, viewport=DESKTOP) as light,
            visit(browser, url, viewport=DESKTOP, color_scheme="dark") as dark,
            visit(browser, url, viewport=PHONE, device_scale_factor=2) as phone,
        ):
            for each in (light, dark, phone):
                is_live(each.go())
            _live(http)
            for each in (light, dark, phone):
                expect(each.page.locator("#events li")).to_have_count(9)
            _take(light.page, folder / "page.png")
            dark.page.get_by_role("link", name="orders", exact=True).click()
            _take(dark.page, folder / "page-service.png")
            _take(phone.page, folder / "page-phone.png")
            server.kill()
            expect(light.page.locator("#banner")).to_be_visible()
            _take(light.page, folder / "page-lost.png")


def _populate(http: httpx.Client) -> None:
    for name, count in SERVICES.items():
        for number in range(1, count + 1):
            _put(http, name, number, version="2.3.1" if number % 7 == 4 else "2.4.0")


def _live(http: httpx.Client) -> None:
    """Nine changes, which tell something."""
    _put(http, "mail", 3, "starting", version="2.4.1")
    _put(http, "mail", 3, version="2.4.1")
    _put(http, "mail", 1, "draining")
    deregister(http, "mail", "mail-1")
    _put(http, "search", 9, "warning")
    _put(http, "search", 7, "draining")
    _put(http, "images", 9)
    _put(http, "users", 6, "starting", version="2.5.0")
    _put(http, "orders", 2, "critical")


def _put(http: httpx.Client, name: str, number: int, status: str = "passing", version: str = "2.4.0") -> None:
    address = f"10.0.{[*SERVICES].index(name)}.{number + 9}:8080"
    commit = sha1(version.encode()).hexdigest()[:7]
    made = node(f"{name}-{number}", address, status, zone="abc"[number % 3], commit=commit)
    endpoints = ENDPOINTS if name == "orders" else []
    register(http, name, made, version=version, shared={"team": "shop"}, endpoints=endpoints)


def _take(page: Page, path: Path) -> None:
    page.wait_for_timeout(1_500)  # rows that have just changed are still lit
    page.screenshot(path=path)
    tools = obtain("pngquant")
    subprocess.run([tools.find("pngquant"), "--force", "--output", path, "96", path], env=tools.env, check=True)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
