"""A real browser: Chromium of Debian's package, with Playwright."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape

from playwright.sync_api import Browser, sync_playwright

from debian import Unobtainable, obtain
from needs import need
from servers.programs import named

__all__ = ["chromium"]

_NAMED = os.environ.get("MICROREG_CHROMIUM", "")  # read at import: no MICROREG_* variable reaches a test
_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_FONTS = Path("/usr/share/fonts")


@contextmanager
def chromium(folder: Path, *fonts: str, sans: str = "DejaVu Sans") -> Generator[Browser]:
    """A browser, which ends with the block; ``folder`` is for its files.

    It comes from Debian's packages, with the libraries and fonts that this machine lacks, downloaded once and not
    installed, or from MICROREG_CHROMIUM. ``fonts`` are further packages, ``sans`` is the family of text. Where there
    is no browser, the test is skipped, or fails (MICROREG_REQUIRE).
    """
    program, env = _program(folder, fonts, sans)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, env=env, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def _program(folder: Path, fonts: tuple[str, ...], sans: str) -> tuple[Path, dict[str, str | float | bool]]:
    env: dict[str, str | float | bool] = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder)}
    if path := named("chromium", "MICROREG_CHROMIUM", _NAMED):
        return path, env
    try:
        programs = [obtain("chromium", "fonts-dejavu-core"), *(obtain(each) for each in fonts)]
        chromium = programs[0].root / "usr/lib/chromium/chromium"  # what is in bin would look for all this itself
        if not chromium.is_file():
            raise Unobtainable("the package has no usr/lib/chromium/chromium")
    except Unobtainable as error:
        need("chromium", f"there is none: {error}; name one: MICROREG_CHROMIUM=/path/to/chromium")
    config = folder / "fonts.conf"
    folders = [_FONTS, *(each.root / "usr/share/fonts" for each in programs)]
    config.write_text(_configuration(folders, folder / "fonts", sans), encoding="utf-8")
    return chromium, env | {"LD_LIBRARY_PATH": programs[0].env["LD_LIBRARY_PATH"], "FONTCONFIG_FILE": str(config)}


def _configuration(folders: list[Path], cache: Path, sans: str) -> str:
    found = "".join(f"<dir>{escape(str(folder))}</dir>" for folder in folders)
    families = {"system-ui": sans, "sans-serif": sans, "monospace": "DejaVu Sans Mono"}
    aliases = "".join(
        f'<alias binding="same"><family>{name}</family><prefer><family>{family}</family></prefer></alias>'
        for name, family in families.items()
    )
    return (
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">'
        f"<fontconfig>{found}<cachedir>{escape(str(cache))}</cachedir>{aliases}</fontconfig>"
    )
