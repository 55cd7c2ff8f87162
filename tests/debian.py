"""Programs from Debian's packages, for tests: downloaded and unpacked into ``.cache``, nothing is installed.

apt runs with a configuration of its own, made from that of the machine: its mirrors, proxies and keys, but other
folders and none of its hooks. No root is needed. The folder is kept, so that it is work once for a machine.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from support import ROOT

__all__ = ["Programs", "Unobtainable", "entries", "mirror_entry", "obtain"]

_CACHE = ROOT / ".cache" / "debian"
_ETC = Path("/etc/apt")
_TIMEOUT = 240
_HOOKS = ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success")
_FIELD = re.compile(r"^([\w-]+):((?:.*\n(?=[ \t]))*.*)", re.MULTILINE)


class Unobtainable(Exception):
    """The programs cannot be had here, and why."""


@dataclass(frozen=True)
class Programs:
    """A folder with unpacked packages; what was installed already is not in it, but found all the same."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        """``PATH`` and ``LD_LIBRARY_PATH`` with the folder first."""
        folders = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
        libraries = sorted({str(path.parent) for path in self.root.glob("**/lib*.so*")})
        return {
            "PATH": ":".join([*(str(self.root / each) for each in folders), *(f"/{each}" for each in folders)]),
            "LD_LIBRARY_PATH": ":".join(libraries),
        }

    def find(self, program: str) -> str:
        """The path of a program. Raises Unobtainable where the packages have none of this name."""
        path = shutil.which(program, path=self.env["PATH"])
        if path is None:
            raise Unobtainable(f"the packages have no program {program!r}")
        return path


@lru_cache
def obtain(*packages: str, suite: str = "") -> Programs:
    """These packages and what they need, of another ``suite`` of Debian if given. Raises Unobtainable.

    Tests that run at the same time wait for each other; what failed once is not tried again in this process.
    """
    for program in "apt-get", "dpkg-deb":
        if shutil.which(program) is None:
            raise Unobtainable(f"there is no {program} on this machine; it takes Debian or a relative")
    sources = _sources_of(suite) if suite else ""
    machine = Path("/etc/os-release").read_bytes() + sources.encode()
    home = _CACHE / f"{suite or 'own'}-{'-'.join(packages)[:40]}-{sha256(machine).hexdigest()[:10]}"
    root = home / "root"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            _download(home, packages, sources)
            _unpack(home)
    return Programs(root)


def _download(home: Path, packages: tuple[str, ...], sources: str) -> None:
    env = os.environ | {"APT_CONFIG": str(_configure(home, sources)), "LC_ALL": "C.UTF-8"}
    update = _call(["apt-get", "-q", "update"], env)
    install = ["apt-get", "-q", "-y", "--no-install-recommends", "--download-only", "install", *packages]
    done = _call(install, env)
    if done.returncode:
        said = [line for each in (update, done) for line in each.stderr.splitlines() if line[:2] in ("E:", "W:")]
        why = " ".join(said)[-600:] or "no reason given"
        raise Unobtainable(f"apt-get cannot download {' '.join(packages)}: {why}")


def _configure(home: Path, sources: str) -> Path:
    """The configuration of the machine, with folders of our own and without what it does beside its work."""
    parts = home / "parts"
    for folder in (parts, home / "lists" / "partial", home / "cache" / "archives" / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    for each in _ETC.glob("apt.conf.d/*"):
        link = parts / each.name
        link.unlink(missing_ok=True)
        link.symlink_to(each)
    (parts / "zzz-private").write_text("".join(f"#clear {name};\n" for name in _HOOKS))
    settings = {
        "Dir::Etc::parts": parts,
        "Dir::State::lists": home / "lists",
        "Dir::Cache": home / "cache",
        "Debug::NoLocking": "true",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "20",
        "Acquire::https::Timeout": "20",
    }
    if sources:
        (home / "private.sources").write_text(sources)
        settings |= {"Dir::Etc::sourcelist": home / "private.sources", "Dir::Etc::sourceparts": "-"}
    config = home / "apt.conf"
    config.write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    return config


def _unpack(home: Path) -> None:
    fresh = home / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for archive in sorted((home / "cache" / "archives").glob("*.deb")):
        done = _call(["dpkg-deb", "-x", str(archive), str(fresh)], dict(os.environ))
        if done.returncode:
            raise Unobtainable(f"{archive.name} does not unpack: {done.stderr[-300:]}")
    fresh.rename(home / "root")
    for folder in "cache", "lists":
        shutil.rmtree(home / folder)


def _call(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unobtainable(f"{command[0]}: {error}") from None


def _sources_of(suite: str) -> str:
    """A ``.sources`` file with another suite, from the Debian mirror that the machine uses."""
    files = [_ETC / "sources.list", *sorted(_ETC.glob("sources.list.d/*"))]
    for path in files:
        if path.suffix in (".list", ".sources") and path.is_file():
            for entry in entries(path.read_text(errors="replace"), deb822=path.suffix == ".sources"):
                if found := mirror_entry(entry, suite):
                    return found
    raise Unobtainable(f"no Debian mirror, which could have the suite {suite!r}, is among the sources in {_ETC}")


def mirror_entry(entry: Mapping[str, str], suite: str) -> str:
    """The stanza for ``suite`` at the mirror of this entry; empty where it is no mirror of Debian itself."""
    uri = next((uri for uri in entry.get("uris", "").split() if uri.rstrip("/").endswith("/debian")), "")
    if not uri or "deb" not in entry.get("types", "").split():
        return ""
    fields = {"Types": "deb", "URIs": uri, "Suites": suite, "Components": "main", "Check-Valid-Until": "no"}
    if signed := entry.get("signed-by", ""):
        fields["Signed-By"] = signed
    return "".join(f"{name}: {value}\n" for name, value in fields.items())


def entries(text: str, *, deb822: bool) -> Iterator[dict[str, str]]:
    """The entries of a file of sources, in either form, as the fields of the newer one."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    if deb822:
        for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
            yield {name.lower(): value.strip() for name, value in _FIELD.findall(stanza)}
        return
    for line in lines:
        match = re.match(r"\s*(deb(?:-src)?)\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)", line)
        if match:
            kind, options, uri, _ = match.groups()
            settings = dict(re.findall(r"([\w-]+)=(\S+)", options or ""))
            yield {"types": kind, "uris": uri} | {name.lower(): value for name, value in settings.items()}
