"""The live page of ``microreg serve``, in a real browser, from a real server."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from browsing import Longest, deregister, is_live, node, register, register_many, visit, weak_contrast
from microreg.testing import Proxy, ServerProcess
from servers import microreg_server
from servers.chromium import chromium
from support import clean_env, python

pytestmark = pytest.mark.timeout(300)  # the first test may have to download the browser

expect.set_options(timeout=20_000)

ROWS = '[role="row"]:not(.heads)'
STATES = """() => {
  window.states = [];
  const note = () => states.push(document.body.dataset.state);
  new MutationObserver(note).observe(document.body, {attributes: true});
}"""
SHAPE = "(mark) => getComputedStyle(mark).clipPath + getComputedStyle(mark).borderWidth"
PHONE = {"width": 360, "height": 740}


@pytest.fixture(name="browser", scope="module")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[ServerProcess]:
    """A server for all tests that do it no harm; each registers services of its own."""
    with microreg_server() as server:
        yield server


@pytest.fixture(name="http")
def _http(server: ServerProcess) -> Iterator[httpx.Client]:
    """A client of that server, which is empty again afterwards."""
    with httpx.Client(base_url=url(server)) as client:
        yield client
        for name in client.get("/v1/services").json()["services"]:
            for service in client.get(f"/v1/services/{name}").json()["services"]:
                deregister(client, name, *(each["id"] for each in service["nodes"]))


@pytest.fixture(name="page")
def _page(browser: Browser, server: ServerProcess) -> Iterator[Page]:
    """The page, live; it has to be without fault to the end."""
    with visit(browser, url(server)) as visited:
        page = visited.go()
        is_live(page)
        yield page


def url(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.port}"


@contextmanager
def harmed(*arguments: str, registry: str = "memory://") -> Generator[tuple[ServerProcess, httpx.Client]]:
    """A server of a test's own."""
    with microreg_server(*arguments, registry=registry) as server, httpx.Client(base_url=url(server)) as http:
        yield server, http


def ready(http: httpx.Client) -> None:
    """Wait until the server watches its registry."""
    deadline = time.monotonic() + 20
    while http.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def services(page: Page) -> Locator:
    return page.get_by_role("grid", name="Services", exact=True).locator(ROWS)


def nodes(page: Page) -> Locator:
    return page.get_by_role("grid", name="Nodes", exact=True).locator(ROWS)


def events(page: Page) -> Locator:
    return page.get_by_role("log", name="Events").get_by_role("listitem")


def chip(page: Page, text: str) -> Locator:
    return page.get_by_role("button", name=re.compile(text))


# -- what there is -----------------------------------------------------------------------------------------------------


def test_it_shows_what_is_registered(page: Page, http: httpx.Client) -> None:
    create = {"name": "Orders.Create", "request": {"name": "in", "type": "Order"}, "response": {"name": "out"}}
    first = node("o-1", "10.0.0.7:8080", zone="a", commit="c0ffee")
    register(http, "orders", first, shared={"team": "sales"}, endpoints=[create])
    register(http, "orders", node("o-2", "10.0.0.8:8080", "warning", zone="b"), version="2.0")
    register(http, "users", node("u-1"))
    expect(services(page)).to_have_count(2)
    expect(services(page).first).to_contain_text("orders")
    expect(services(page).first).to_contain_text("2 nodes: 1 warning, 1 passing")
    expect(services(page).first).to_contain_text("1.0, 2.0")
    expect(page.locator("#services")).to_have_text("2")
    expect(page.locator("#nodes")).to_have_text("3")
    expect(chip(page, "2 passing")).to_be_visible()

    page.get_by_role("link", name="Nodes", exact=True).click()
    expect(nodes(page)).to_have_count(3)
    expect(nodes(page).nth(1)).to_have_text(re.compile(r"warning\s*o-2\s*orders\s*10\.0\.0\.8:8080\s*2\.0\s*b\s*\d+ s"))

    nodes(page).get_by_role("link", name="o-1").click()
    detail = page.get_by_role("region", name="orders / o-1")
    for text in (
        "passing",
        "10.0.0.7:8080",
        "1.0",
        "commit",
        "c0ffee",
        "team",
        "sales",
        "Orders.Create in Order → out",
    ):
        expect(detail).to_contain_text(text)
    detail.get_by_role("link", name="orders").click()
    detail = page.get_by_role("region", name="orders")
    expect(detail.get_by_role("row")).to_have_count(2)
    expect(detail.get_by_role("heading", name="Version 2.0 1 node")).to_be_visible()


def test_it_shows_what_changes_as_it_happens(page: Page, http: httpx.Client) -> None:
    expect(page.get_by_text("Nothing is registered yet.")).to_be_visible()
    register(http, "orders", node("o-1"), node("o-2", "10.0.0.8:80"))
    expect(services(page)).to_have_count(1)
    register(http, "orders", node("o-2", "10.0.0.9:80", "critical"), version="1.1")
    expect(services(page)).to_contain_text("2 nodes: 1 critical, 1 passing")
    expect(page.get_by_role("group", name="Services that want attention").get_by_role("link")).to_have_count(1)
    expect(page).to_have_title("1 critical · microreg")
    deregister(http, "orders", "o-2")
    expect(services(page)).to_contain_text("1 node: 1 passing")
    expect(page).to_have_title("microreg")
    told = [
        "left",
        "passing → critical · version 1.0 → 1.1 · 10.0.0.8:80 → 10.0.0.9:80",
        "came, passing at 10.0.0.8:80",
        "came, passing at 10.0.0.1:80",
    ]
    expect(events(page)).to_have_text([re.compile(f"orders o-[12].*{re.escape(each)}$") for each in told])
    deregister(http, "orders", "o-1")
    expect(services(page)).to_contain_text("gone")
    expect(page.locator("#services")).to_have_text("0")


def test_events_wait_while_they_are_paused(page: Page, http: httpx.Client) -> None:
    page.get_by_role("button", name="Pause").click()
    register(http, "orders", node("o-1"), node("o-2"))
    page.get_by_role("button", name="Go on (2)").click()
    expect(events(page)).to_have_count(2)


def test_an_age_is_what_the_server_has_seen(browser: Browser) -> None:
    with harmed() as (behind, first):
        register(first, "orders", node("older"))
        with harmed(registry=url(behind)) as (server, http), visit(browser, url(server)) as visited:
            ready(http)  # it knows what was there before it
            register(http, "orders", node("seen"))
            page = visited.go("#view=nodes")
            expect(nodes(page)).to_have_count(2)
            expect(nodes(page).first).to_contain_text(re.compile(r"older.*> \d+ s$"))
            expect(nodes(page).last).to_contain_text(re.compile(r"seen.*:80\D*1\.0\s*\d+ s$"))


# -- finding things ----------------------------------------------------------------------------------------------------


def test_search_and_filters(page: Page, http: httpx.Client) -> None:
    register(http, "orders", node("o-1", zone="a"), node("o-2", "10.0.0.2:80", "critical", zone="b"))
    register(http, "users", node("u-1", zone="b", owner="Ann"))
    register(http, "mail", node("m-1"))
    expect(services(page)).to_have_count(3)
    search = page.get_by_role("searchbox")
    wanted = {"ORD": "orders", "owner=ann": "users", "0.2:80": "orders", "o-2 critical": "orders", "zone=b u": "users"}
    for text, found in wanted.items():
        search.fill(text)
        expect(services(page)).to_have_count(1)
        expect(services(page)).to_contain_text(found)
    search.fill("nothing like it")
    expect(page.get_by_text("Nothing here matches.")).to_be_visible()
    search.fill("")
    chip(page, "critical").click()
    expect(services(page)).to_have_count(1)
    expect(services(page)).to_contain_text("1 of 2")
    chip(page, "critical").click()
    page.get_by_role("button", name=re.compile("^b ")).click()
    expect(services(page)).to_have_count(2)
    page.get_by_role("button", name="no zone").click()
    expect(services(page)).to_have_count(3)
    page.get_by_role("link", name="Nodes", exact=True).click()
    expect(page.locator("#found")).to_have_text("3 of 4 nodes")

    page.reload()  # what is looked at is in the URL
    expect(page.get_by_role("button", name="no zone")).to_have_attribute("aria-pressed", "true")
    expect(nodes(page)).to_have_count(3)
    register(http, "users", node("u-1", zone="a"))
    expect(nodes(page)).to_have_count(2)
    page.get_by_role("button", name="Clear filters").click()
    expect(nodes(page)).to_have_count(4)


def test_everything_can_be_done_by_keyboard(page: Page, http: httpx.Client) -> None:
    register(http, "orders", *(node(f"o-{number}") for number in range(1, 13)))
    register(http, "users", node("u-1"))
    register(http, "work", node("w-1"))
    expect(services(page)).to_have_count(3)
    keys = page.keyboard
    keys.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    keys.type("s")
    expect(services(page)).to_have_count(3)
    keys.press("ArrowDown")
    expect(page.get_by_role("link", name="orders", exact=True)).to_be_focused()
    keys.press("ArrowDown")
    keys.press("j")
    keys.press("k")
    expect(page.get_by_role("link", name="users", exact=True)).to_be_focused()
    keys.press("Enter")
    expect(page.get_by_role("heading", name="users")).to_be_focused()
    keys.press("Escape")
    expect(page.get_by_role("link", name="users", exact=True)).to_be_focused()
    deregister(http, "users", "u-1")  # still there for a while, since it had nodes
    keys.press("End")
    expect(page.get_by_role("link", name="work", exact=True)).to_be_focused()
    keys.press("Escape")
    expect(page.get_by_role("searchbox")).to_have_value("")

    keys.press("n")
    expect(nodes(page)).to_have_count(13)
    page.get_by_role("button", name="Skip to the list").focus()
    keys.press("Enter")
    for _ in range(11):
        keys.press("ArrowDown")
    expect(page.get_by_role("link", name="o-12", exact=True)).to_be_focused()  # in the order that people count in
    deregister(http, "orders", "o-12")
    expect(page.get_by_role("link", name="w-1", exact=True)).to_be_focused()  # its neighbour
    keys.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    keys.press("Escape")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_hidden()


def test_light_and_dark(browser: Browser, server: ServerProcess) -> None:
    with visit(browser, url(server), color_scheme="dark") as visited:
        page = visited.go()
        is_live(page)
        colour = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(colour)
        page.get_by_role("button", name="Theme: as the system").click()
        light = page.evaluate(colour)
        page.reload()
        expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
        assert page.evaluate(colour) == light != dark
        page.keyboard.press("t")
        assert page.evaluate(colour) == dark
        page.keyboard.press("t")
        expect(page.get_by_role("button", name="Theme: as the system")).to_be_visible()


# -- lines to copy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clipboard", ["of the browser", "of old"])
def test_lines_are_copied(browser: Browser, server: ServerProcess, http: httpx.Client, clipboard: str) -> None:
    register(http, "orders", node("o-1"))
    with visit(browser, url(server), permissions=["clipboard-read", "clipboard-write"]) as visited:
        if clipboard == "of old":
            visited.page.add_init_script("navigator.clipboard.writeText = undefined")
        page = visited.go("#service=orders")
        page.get_by_role("button", name="Copy curl").click()
        expect(page.get_by_role("status")).to_have_text("curl copied")
        assert page.evaluate("navigator.clipboard.readText()") == f"curl {url(server)}/v1/services/orders"


NAMES = ["<img src=x onerror=alert(1)>", "'; exit 9 #", 'a"b\\`id`$(id)', "שלום/ü ?#%41", "-n"]
STATIC = "static://" + ";".join(f"{quote(name, safe='')}=127.0.0.{number}:9" for number, name in enumerate(NAMES, 1))


@pytest.fixture(name="foreign", scope="module")
def _foreign() -> Iterator[ServerProcess]:
    """A server before a registry in which others have written."""
    with microreg_server(registry=STATIC) as server:
        yield server


def test_lines_for_names_of_any_kind_do_what_they_say(browser: Browser, foreign: ServerProcess, tmp_path: Path) -> None:
    """They are run as they are: nothing in a name is taken for code, and each finds its service."""
    for command, code in {"microreg": "-m microreg", "curl": f"{tmp_path}/get.py"}.items():
        (tmp_path / command).write_text(f'#!/bin/sh\nexec {sys.executable} {code} "$@"\n')
        (tmp_path / command).chmod(0o755)
    (tmp_path / "get.py").write_text(
        "import sys, urllib.request as r; [url] = sys.argv[1:]; print(r.urlopen(url).read().decode())"
    )
    script, program = ["set -e"], ["import asyncio, microreg", "async def main():"]
    with visit(browser, url(foreign)) as visited:
        for name in NAMES:
            page = visited.go(f"#service={quote(name, safe='')}")
            expect(page.get_by_role("region", name=name)).to_be_visible()
            kinds = ("Python", "Shell", "httpx", "curl")
            lines = {kind: page.get_by_label(kind, exact=True).inner_text() for kind in kinds}
            script += [lines["Shell"], lines["curl"]]
            program += [*(f"    {line}" for line in lines["Python"].splitlines()), "            print(node.address)"]
            found = ast.walk(ast.parse(f"async def main():\n{textwrap.indent(lines['httpx'], '    ')}"))
            assert name in [each.value for each in found if isinstance(each, ast.Constant)]
        env = clean_env(PATH=f"{tmp_path}:/usr/bin:/bin")
        shell = subprocess.run(["sh", "-c", "\n".join(script)], env=env, capture_output=True, text=True, timeout=60)
        addresses = python("\n".join([*program, "asyncio.run(main())"]), timeout=60).splitlines()
    assert (shell.returncode, shell.stderr) == (0, "")
    assert addresses == [f"127.0.0.{number}:9" for number in range(1, len(NAMES) + 1)]
    assert re.findall(r"127\.0\.0\.\d+:9", shell.stdout) == [each for each in addresses for _ in range(4)]


# -- who may see it ----------------------------------------------------------------------------------------------------


def test_with_tokens_the_page_asks_for_one(browser: Browser, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret-of-the-page\n")
    with harmed("--token-file", str(token)) as (server, http), visit(browser, url(server)) as visited:
        http.headers["Authorization"] = "Bearer secret-of-the-page"
        register(http, "orders", node("o-1"))
        page = visited.go()
        field, wall = page.get_by_label("Token"), page.get_by_role("heading", name="This server wants a token")
        expect(field).to_be_focused()
        expect(page.get_by_role("grid")).to_have_count(0)
        field.fill("two words")
        field.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="without blanks")).to_be_visible()
        field.fill("wrong")
        field.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="does not know the token")).to_be_visible()
        field.fill("secret-of-the-page")
        page.get_by_role("button", name="Open").click()
        expect(services(page)).to_have_count(1)
        page.reload()
        expect(services(page)).to_have_count(1)
        expect(wall).to_be_hidden()
        page.get_by_role("link", name="orders", exact=True).click()
        expect(page.get_by_label("curl", exact=True)).to_contain_text('-H "Authorization: Bearer $REGISTRY_TOKEN"')
        expect(page.get_by_label("Shell", exact=True)).to_contain_text("?token=${REGISTRY_TOKEN}'")
        assert "secret-of" not in page.url + page.content()
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.get_by_role("button", name="Forget token").click()
        expect(wall).to_be_visible()


# -- hostile content ---------------------------------------------------------------------------------------------------


def test_what_is_registered_is_text(browser: Browser, foreign: ServerProcess) -> None:
    with visit(browser, url(foreign)) as visited:
        page = visited.go()
        for name in NAMES:
            expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
        assert page.locator("img").count() == 1  # the page's own


def test_what_nobody_could_register_is_text_too(page: Page, http: httpx.Client) -> None:
    markup = "</pre><script>violations.push('ran')</script><img src=//elsewhere.invalid/x onerror=violations.push(1)>"
    pairs = {f"key-{number}": markup for number in range(60)} | {"zone": "\u202ezone\u0007", "long": "x" * 1000}
    endpoint = {"name": markup, "request": {"name": markup, "type": markup}, "metadata": {"a": markup}}
    made = node("h-1", "[::1]:80", **pairs)
    register(http, "hostile", made, shared={"s": markup}, version="<b>" * 20, endpoints=[endpoint])
    services(page).get_by_role("link", name="hostile").click()
    detail = page.get_by_role("region", name="hostile")
    expect(detail).to_contain_text("<script>")
    detail.get_by_role("grid").get_by_role("link", name="h-1").click()
    detail = page.get_by_role("region", name="hostile / h-1")
    detail.get_by_role("button", name="Show all 62").click()
    expect(detail.locator(".pairs").first.locator("div")).to_have_count(62)
    expect(detail).to_contain_text("‹U+202E›zone‹U+0007›")
    expect(page.get_by_role("button", name="‹U+202E›zone‹U+0007›")).to_be_visible()
    assert page.locator("script").count() == 2


# -- when something is away --------------------------------------------------------------------------------------------


def test_a_lost_server_is_seen_and_found_again(browser: Browser) -> None:
    with harmed() as (server, http), visit(browser, url(server)) as visited:
        register(http, "orders", node("o-1"))
        page = visited.go()
        expect(services(page)).to_have_count(1)
        server.kill()
        alert = page.get_by_role("alert")
        expect(alert).to_have_text("The connection to the server is lost. The server cannot be reached.")
        since = re.compile(r"Since \d\d:\d\d:\d\d, \d+ s\. What is shown is as it was then")
        expect(page.locator("#banner")).to_contain_text(since)
        expect(page).to_have_title("✕ lost · microreg")
        expect(services(page)).to_have_count(1)
        server.start()
        is_live(page)
        expect(alert).to_be_hidden()
        expect(services(page)).to_contain_text("gone")  # it had nothing stored
        expect(events(page)).to_contain_text("went while this page was not connected")
        assert visited.lost


def test_a_server_that_hangs_is_seen(browser: Browser, server: ServerProcess, http: httpx.Client) -> None:
    with visit(browser, url(server)) as visited:
        visited.page.clock.install()
        page = visited.go()
        is_live(page)
        server.freeze()
        try:
            page.clock.fast_forward("00:13")  # without a sign of life
            expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
        finally:
            server.thaw()
        is_live(page)
        register(http, "orders", node("o-1"))
        expect(services(page)).to_have_count(1)


def test_a_lost_registry_behind_the_server_is_seen(browser: Browser) -> None:
    with harmed() as (behind, first), harmed(registry=url(behind)) as (server, _):
        register(first, "orders", node("o-1"))
        with visit(browser, url(server)) as visited:
            page = visited.go()
            expect(services(page)).to_have_count(1)
            behind.kill()
            expect(page.get_by_role("alert")).to_contain_text("The server has lost the registry behind it.")
            expect(page.locator("#state")).to_have_text("Registry lost")
            behind.start()
            is_live(page, timeout=30)
            expect(page.get_by_role("alert")).to_be_hidden()


def test_a_connection_that_breaks_is_resumed_without_a_word(
    browser: Browser, server: ServerProcess, http: httpx.Client
) -> None:
    with Proxy(server.port) as proxy, visit(browser, f"http://127.0.0.1:{proxy.port}") as visited:
        page = visited.go()
        is_live(page)
        register(http, "orders", node("o-1"))
        expect(events(page)).to_have_count(1)
        page.evaluate(STATES)
        proxy.cut()
        register(http, "orders", node("o-2"))
        expect(events(page)).to_have_count(2)
        assert page.evaluate("states.filter((state) => state !== 'live')") == []


# -- much of it --------------------------------------------------------------------------------------------------------


def test_two_thousand_nodes_change(browser: Browser) -> None:
    """All changes arrive, the page answers all the while, and the document stays small."""
    with harmed() as (server, _), visit(browser, url(server)) as visited:
        page = visited.go()
        is_live(page)
        longest = Longest(page)
        for status in ("passing", "critical"):
            every = ((f"service-{number % 100}", node(f"n-{number // 100}", status=status)) for number in range(2_000))
            register_many(server.port, every)
        expect(page.locator("#nodes")).to_have_text("2,000")
        expect(chip(page, "2,000 critical")).to_be_visible()
        expect(services(page).first).to_contain_text("20 nodes: 20 critical")
        assert longest.ms < 2_000  # ms; some tens where nothing else is going on
        assert page.evaluate("document.querySelectorAll('*').length") < 8_000
        page.get_by_role("link", name="Nodes", exact=True).click()
        grid = page.get_by_role("grid", name="Nodes", exact=True)
        expect(grid).to_have_attribute("aria-rowcount", "2001")
        grid.get_by_role("link", name="n-0").first.focus()
        page.keyboard.press("End")
        expect(grid.locator(":focus")).to_have_text("n-19")
        expect(grid.locator(":focus")).to_be_in_viewport()
        expect(grid.locator("[aria-rowindex='2001']")).to_contain_text("service-99")
        assert nodes(page).count() < 60


# -- for everybody -----------------------------------------------------------------------------------------------------


def test_nothing_is_wider_than_a_phone(browser: Browser, server: ServerProcess, http: httpx.Client) -> None:
    long = f"{'h' * 40}.example:80"
    many = [node(f"o-{number}", long, zone=f"zone-of-some-length-{number}") for number in range(2, 40)]
    register(http, "orders", node("o-1", key="v" * 200), *many, version="1" * 100)
    register(http, "l" * 63, node("i" * 63))
    parts = {
        "": "#service-grid",
        "#view=nodes": "#node-grid",
        "#view=events": "#feed",
        "#service=orders": "#detail",
        "#service=orders&node=o-1": "#detail",
    }
    with visit(browser, url(server), viewport=PHONE, has_touch=True) as visited:
        is_live(visited.go())
        for hash, part in parts.items():
            page = visited.go(hash)
            expect(page.locator(part)).to_be_visible()
            expect(page.locator("#nodes")).to_have_text("40")
            assert page.evaluate("document.scrollingElement.scrollWidth") == PHONE["width"], hash


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_and_named(browser: Browser, server: ServerProcess, http: httpx.Client, scheme: str) -> None:
    """Contrast as WCAG 2.2 AA has it; all that can be used has a name and a role; statuses differ in shape."""
    statuses = ["passing", "warning", "critical", "draining", "starting"]
    register(http, "orders", *(node(f"o-{status}", status=status, zone="a") for status in statuses))
    with visit(browser, url(server), color_scheme=scheme, reduced_motion="reduce") as visited:
        page = visited.go("#view=nodes&service=orders")
        expect(page.get_by_role("region", name="orders").get_by_role("row")).to_have_count(5)
        assert weak_contrast(page) == []
        for mark in page.get_by_role("grid", name="Nodes", exact=True).locator(".mark").all():
            assert mark.evaluate("(mark) => mark.getAttribute('aria-hidden')") == "true"
        shapes = [page.locator(f"#statuses [data-status={status}]").evaluate(SHAPE) for status in statuses]
        assert len(set(shapes)) == 5
        unnamed = page.locator("a:visible, button:visible, input:visible").filter(visible=True)
        for each in unnamed.all():
            assert each.evaluate("(e) => (e.getAttribute('aria-label') || e.textContent).trim()"), each.inner_html()
        expect(page.get_by_role("heading", level=1)).to_have_text("microreg")
        expect(page.get_by_role("columnheader", name="Address")).to_be_visible()
        expect(page.get_by_role("group", name="Status").get_by_role("button")).to_have_count(5)
        register(http, "orders", node("o-passing", status="warning"))
        expect(page.get_by_role("region", name="orders")).to_contain_text("2 warning")
        assert page.evaluate("document.getAnimations().length") == 0
