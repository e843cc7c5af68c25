"""Plant each known fault in a copy of the package and see that the named test finds it.

    python tools/mutants.py [--processes 2] [WORD …]

The faults are in tools/mutants.toml. With words, only faults in whose sentence or file one of them
occurs are planted, and the table is not written. Without, the table goes to
book/results/mutants.json; a fault that its test does not find ends the command with an error.
"""

import argparse
import contextlib
import gc
import io
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tools" / "mutants.toml"
RESULT = ROOT / "book" / "results" / "mutants.json"
COPIED = (
    *("mmlib", "notebooks", "tests", "tools", "book/results", "conftest.py", "pyproject.toml"),
)
# Imported once, in a server that each test process is forked from: else most of a test's time.
PRELOADED = [
    *("torch", "torchvision", "transformers.models.bert.modeling_bert", "accelerate"),
    *("scipy.stats", "sklearn.linear_model", "sklearn.model_selection", "hypothesis", "pytest"),
]
OPTIONS = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider"]


@dataclass(frozen=True)
class Mutant:
    """A fault: `find`, which occurs once in `file`, becomes `replace`; `test` must then fail.

    `quick` marks the ones that the test suite itself plants.
    """

    fault: str
    file: str
    find: str
    replace: str
    test: str
    quick: bool = False

    def row(self) -> dict[str, str]:
        """The line of the published table."""
        return {"fault": self.fault, "file": self.file, "killed_by": self.test}

    def planted(self, source: str) -> str:
        """The source with the fault. Raises ValueError where `find` does not occur exactly once."""
        if (times := source.count(self.find)) != 1:
            raise ValueError(
                f"expected the text of '{self.fault}' once in {self.file}, got it {times} times;"
                " mend tools/mutants.toml"
            )
        return source.replace(self.find, self.replace)


def load() -> list[Mutant]:
    """All faults of tools/mutants.toml, in its order."""
    return [Mutant(**entry) for entry in tomllib.loads(TABLE.read_text("utf-8"))["mutant"]]


def copy_tree(destination: Path) -> None:
    """What a test needs, copied: a fault is never planted in the working tree."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            skip = shutil.ignore_patterns("__pycache__", "node_modules")
            shutil.copytree(ROOT / name, destination / name, ignore=skip)
        else:
            shutil.copy(ROOT / name, destination / name)


def run_tests(tests: list[str], mutant: Mutant | None = None) -> bool:
    """Whether the tests pass on a copy of the tree, with the fault where one is given.

    To be called in a process of its own: modules stay as they were first imported.
    Raises RuntimeError where the tests could not run, or ran on other files than the copy's.
    """
    import pytest

    gc.freeze()  # pytest and hypothesis collect garbage often: not among the preloaded modules
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve()
        copy_tree(tree)
        if mutant:
            path = tree / mutant.file
            path.write_text(mutant.planted(path.read_text("utf-8")), "utf-8")
        originals = {str(ROOT / name) for name in ("", "tests", "tools")}
        sys.path = [str(tree), *(entry for entry in sys.path if entry not in originals)]
        os.environ["PYTHONPATH"] = str(tree)  # for what the tests start themselves
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # no test here needs one
        os.environ["NO_SHRINKING"] = "1"  # see tests/strategies.py
        os.chdir(tree)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            code = pytest.main([*OPTIONS, *tests])
        os.chdir(ROOT)
        source = getattr(sys.modules.get("mmlib"), "__file__", None) or "nowhere"
        # code 1: a test failed; others: the test was not found, or could not be imported
        if code not in (0, 1) or not Path(source).is_relative_to(tree):
            raise RuntimeError(
                f"expected {' '.join(tests)} to run on {tree}, got code {code} on {source}\n"
                + output.getvalue()
            )
        return code == 0


@contextlib.contextmanager
def fresh_processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """A pool that runs each call in a new process, the heavy imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(number, context, max_tasks_per_child=1) as pool:
        yield pool


def survivors(mutants: list[Mutant], processes: int = 1) -> Iterable[bool]:
    """Whether each fault survives its test, as the tests end."""
    with fresh_processes(processes) as pool:
        yield from pool.map(run_tests, [[mutant.test] for mutant in mutants], mutants)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    mutants = [
        mutant
        for mutant in load()
        if not arguments.words or any(w in mutant.fault + mutant.file for w in arguments.words)
    ]
    with fresh_processes(1) as pool:
        if not pool.submit(run_tests, sorted({mutant.test for mutant in mutants})).result():
            print("The named tests fail without any fault; mend them first.", file=sys.stderr)
            return 1
    found = 0
    for mutant, alive in zip(mutants, survivors(mutants, arguments.processes), strict=True):
        found += not alive
        print("SURVIVES" if alive else "killed  ", mutant.fault, "|", mutant.test, flush=True)
    print(f"{found} of {len(mutants)} faults found")
    if found == len(mutants) and not arguments.words:
        rows = [mutant.row() for mutant in mutants]
        RESULT.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0 if found == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
