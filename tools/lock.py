"""Print the versions that this environment has of a project and of all it depends on.

    .venv/bin/python tools/lock.py 'mmlib[test]' > requirements-lock.txt
    .venv-book/bin/python tools/lock.py jupyter-book > requirements-book.txt

CUDA's own packages and triton are left out: torch pins them itself where it needs them, and the
file must also serve macOS.
"""

import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LEFT_OUT = ("nvidia-", "cuda-", "triton", "mmlib")


def closure(roots: list[str]) -> dict[str, str]:
    """Name -> installed version of each requirement of `roots`, followed to the end."""
    found: dict[str, str] = {}
    todo, seen = [Requirement(root) for root in roots], set()
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed here: run make setup first")
        found[name] = package.version.split("+")[0]
        for line in package.requires or []:
            child = Requirement(line)
            wanted = extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": e}) for e in wanted):
                todo.append(child)
    return {n: v for n, v in sorted(found.items()) if not n.startswith(LEFT_OUT)}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    print(f"# {' and '.join(sys.argv[1:])} with all dependencies, as tested together on {python}.")
    print("# Written by tools/lock.py.")
    for name, version in closure(sys.argv[1:]).items():
        print(f"{name}=={version}")
