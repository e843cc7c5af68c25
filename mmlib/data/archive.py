"""Public data sets as zips: fetched, or found beside you, and checked.

A public set is read from its public address, or from a compact copy where the environment variable
MMLIB_DATA names a folder with NAME.zip (and SHA256SUMS beside it). Nothing of a set is in this
repository.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from tqdm import tqdm

from mmlib.errors import expected

CHUNK = 1 << 20


def open_archive(name: str, address: str, files: Sequence[str] = ()) -> ZipFile:
    """The zip of a public set: MMLIB_DATA/NAME.zip where MMLIB_DATA is set, else from `address`.

    Where `files` are named, the address is the folder, with a slash at its end, under which they
    lie one by one; they are packed as the copy is. A compact copy is checked against SHA256SUMS in
    its folder. A zip that a server packs on demand has no stable digest, so what comes from
    `address` is checked by the caller, file by file.

    Raises UserError where the copy is missing or changed, or the address cannot be reached.
    """
    folder = os.environ.get("MMLIB_DATA")
    source: Path | io.BytesIO
    if folder:
        source = Path(folder) / f"{name}.zip"
        if not source.is_file():
            raise expected(
                f"{name}.zip in the folder that MMLIB_DATA names",
                f"no file {source}",
                "unset MMLIB_DATA",
            )
        _check_listed(source)
    else:
        source = _packed(name, address, files) if files else _download(name, address)
    try:
        return ZipFile(source)
    except BadZipFile:
        raise expected(
            f"a zip of {name}", f"another file from {folder or address}", "fetch it again"
        ) from None


def read_member(name: str, archive: ZipFile, path: str) -> bytes:
    """A file of the public set `name`; raises UserError where the archive does not have it."""
    try:
        return archive.read(path)
    except KeyError:
        raise expected(
            f"{path} in the archive of {name}",
            "no such file",
            "the source has changed; report it",
        ) from None


def check_member(name: str, content: bytes, sha256: str) -> None:
    """Raises UserError where a file of a public set is not the one this package was written for."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise expected(
            f"{name} with SHA-256 {sha256[:12]}…",
            f"{found[:12]}…",
            "the source has changed; report it",
        )


def _check_listed(file: Path) -> None:
    """Compares a file with its line in SHA256SUMS, where that list stands beside it."""
    sums = file.parent / "SHA256SUMS"
    if not sums.is_file():
        return
    lines = sums.read_text(encoding="utf-8", errors="replace").splitlines()
    # "digest  name", as sha256sum writes it; a star before the name says that it read bytes
    found_lines = (re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line.rstrip()) for line in lines)
    listed = {line[2]: line[1].lower() for line in found_lines if line}
    with open(file, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if listed.get(file.name) != found:
        want = listed.get(file.name, "none")[:12]
        raise expected(
            f"{file.name} with the SHA-256 of {sums}, {want}…", f"{found[:12]}…", "copy it again"
        )


def _packed(name: str, address: str, files: Sequence[str]) -> io.BytesIO:
    """The bytes of a zip with the files that lie under an address."""
    content = io.BytesIO()
    with ZipFile(content, "w") as archive:
        for file in files:
            archive.writestr(file, _download(name, address + file).getvalue())
    content.seek(0)
    return content


def _download(name: str, address: str) -> io.BytesIO:
    """The bytes at an address, with a progress bar; they are kept in memory."""
    content = io.BytesIO()
    try:
        with urllib.request.urlopen(
            address, timeout=60
        ) as answer:  # an https address written in this package
            size = int(answer.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=None) as bar:
                while chunk := answer.read(CHUNK):
                    content.write(chunk)
                    bar.update(len(chunk))
    except OSError as error:  # URLError, a timeout and a broken connection are all of this kind
        remedy = f"connect to the network, or set MMLIB_DATA to a folder with {name}.zip"
        raise expected(f"{name} from {address}", getattr(error, "reason", error), remedy) from None
    content.seek(0)
    return content
