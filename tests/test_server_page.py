"""What serves the live page: its files, who may have them, and since when nodes are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from microreg import server as server_package
from microreg.server import Settings
from microreg.server.page import PATHS
from serving import serving
from support import run, wait_until

FOLDER = Path(server_package.__file__).parent / "page"
TOKENS = Settings(tokens=("write-token",), read_tokens=("read-token",), rate=0.5)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)


def test_every_file_of_the_page_is_served_as_it_is() -> None:
    async def main() -> None:
        async with serving() as server:
            for path in PATHS:
                answer = await server.http.get(path)
                name = "index.html" if path == "/" else path.removeprefix("/page/")
                assert answer.content == (FOLDER / name).read_bytes()
                assert answer.headers["content-security-policy"] == POLICY
                assert answer.headers["cache-control"] == "no-cache"
                assert answer.headers["x-content-type-options"] == "nosniff"
                kind = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
                assert answer.headers["content-type"].partition(";")[0] == kind[name.rpartition(".")[2]]

    run(main())


def test_a_browser_keeps_the_files_and_asks_whether_they_are_the_same() -> None:
    async def main() -> None:
        async with serving() as server:
            tag = (await server.http.get("/")).headers["etag"]
            for known in (tag, f'"other", W/{tag}', "*"):
                answer = await server.http.get("/", headers={"If-None-Match": known})
                assert (answer.status_code, answer.content) == (304, b"")
                assert answer.headers["etag"] == tag
            assert (await server.http.get("/", headers={"If-None-Match": '"other"'})).status_code == 200

    run(main())


def test_only_reading_is_allowed() -> None:
    async def main() -> None:
        async with serving() as server:
            page = await server.http.get("/")
            head = await server.http.head("/")
            assert (head.status_code, head.headers["etag"]) == (200, page.headers["etag"])
            for path in ("/", "/page/main.js", "/page/ages"):
                answer = await server.http.post(path)
                assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
                assert answer.json()["code"] == "method_not_allowed"
            others = (
                "/page",
                "/page/",
                "/page/index.html",
                "/page/__init__.py",
                "/page/%2e%2e/page/main.js",
                "/main.js",
            )
            for path in others:
                assert (await server.http.get(path)).status_code == 404, path

    run(main())


def test_anybody_may_have_the_files_and_nobody_else_the_ages() -> None:
    """A link from elsewhere opens the page, by whatever name, and a page of many files is not too many requests."""

    async def main() -> None:
        elsewhere = {"Host": "registry.example", "Sec-Fetch-Site": "cross-site", "Origin": "https://wiki.example"}
        async with serving(TOKENS) as server:
            for path in PATHS:
                assert (await server.http.get(path, headers=elsewhere)).status_code == 200
            assert (await server.http.get("/page/ages")).status_code == 401
        async with serving(Settings()) as server:
            assert (await server.http.get("/", headers=elsewhere)).status_code == 200
            assert (await server.http.get("/page/ages", headers=elsewhere)).status_code == 403
            assert (await server.http.get("/page/ages", headers={"Host": "registry.example"})).status_code == 421

    run(main())


def test_ages_are_those_that_the_server_has_seen() -> None:
    async def main() -> None:
        async with serving() as server:
            await wait_until(lambda: server.app.hub.live)
            await server.put("orders", "o-1")
            await server.put("orders", "o-2")
            await server.put("users", "u-1")
            await server.put("orders", "o-1", "10.0.0.2:80")
            found = (await server.http.get("/page/ages")).json()
            seen = {name: set(nodes) for name, nodes in found["ages"].items()}
            assert seen == {"orders": {"o-1", "o-2"}, "users": {"u-1"}}
            assert all(0 <= age <= found["up"] for nodes in found["ages"].values() for age in nodes.values())
            await server.delete("orders", "o-1")
            await server.delete("users", "u-1")
            assert set((await server.http.get("/page/ages")).json()["ages"]) == {"orders"}

    run(main())


def test_the_age_of_what_was_there_before_is_not_known() -> None:
    async def main() -> None:
        async with serving(url="static://orders=10.0.0.1:80") as server:
            assert (await server.http.get("/page/ages")).json()["ages"] == {"orders": {"10.0.0.1:80": None}}

    run(main())


NAMES = {"http://www.w3.org", "http://any.microreg"}  # SVG's, and one in a line to copy: nothing is fetched there
MARKUP = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc|setHTML"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.*")), ids=lambda path: path.name)
def test_the_files_need_nothing_from_elsewhere_and_parse_no_markup(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text)) <= NAMES
    if path.suffix == ".js":
        assert re.findall(MARKUP, text) == []
        assert len(text.splitlines()) <= 320
        known = {name.removeprefix("/page/") for name in PATHS}
        assert set(re.findall(r'from "\./([\w.]+)"', text)) <= known
    if path.suffix == ".html":
        assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", text) == []
        assert set(re.findall(r'(?:src|href)="(page/[\w.-]+)"', text)) <= {each[1:] for each in PATHS}
