"""Write the account under which a copy of the book lies into every link of that copy.

    python tools/owner.py NAME [FOLDER]    # make owner NAME=…

The name that stands there now is read from pyproject.toml, so it can be changed again.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def rename(root: Path, name: str) -> list[str]:
    """Put name in place of the present owner in each committed file of root; the files changed.

    Raises SystemExit, in one line, for what GitHub takes for no account.
    """
    if not re.fullmatch(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}", name):
        raise SystemExit(f"expected an account such as ada-lovelace, got '{name}'; correct it")
    project = (root / "pyproject.toml").read_bytes()
    now = re.findall(rb"github\.com/([\w-]+)/mmlib-book\b", project)[0]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True)
    changed = []
    for file in filter(None, listed.stdout.decode().split("\0")):
        path = root / file
        if not path.is_file():
            continue
        old = path.read_bytes()
        new = old.replace(b"/" + now + b"/mmlib-book", b"/" + name.encode() + b"/mmlib-book")
        if new != old:
            path.write_bytes(new)
            changed.append(file)
    return changed


def main(arguments: list[str]) -> None:
    """Rename, and say where."""
    if not arguments or not arguments[0]:
        raise SystemExit("expected an account, got none; make owner NAME=ada-lovelace")
    root = Path(arguments[1]) if len(arguments) > 1 else ROOT
    changed = rename(root, arguments[0])
    print(f"{arguments[0]}: written into {', '.join(changed) or 'no file'}")


if __name__ == "__main__":
    main(sys.argv[1:])
