"""Run notebooks in place and store outputs that are the same on each run.

    python tools/run_notebooks.py notebooks/*.ipynb

A notebook that fails stays as it was. One that takes longer than the budget of a chapter is kept,
and the command fails.
"""

import os
import sys
import time
from pathlib import Path

# On a new machine this builds Matplotlib's cache of fonts here; in a chapter's first cell it would
# say so on stderr, which is compared.
import matplotlib.font_manager  # noqa: F401
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

# What would make outputs differ from run to run or from machine to machine.
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "MMLIB_STORED": "1",  # mmlib.book.explore shows its first figure alone
}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
BUDGET = 180  # seconds a chapter, DESIGN's promise to the reader


def run(path: Path) -> float:
    """Execute one notebook, write it back without what changes from run to run; seconds taken."""
    notebook = nbformat.read(path, 4)
    client = NotebookClient(
        notebook,
        timeout=BUDGET,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    start = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - start
    notebook.metadata = nbformat.from_dict(METADATA)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return seconds


def main(paths: list[str]) -> int:
    """Run each notebook and print its time and size; 1 where any failed or was too slow."""
    os.environ.update(ENVIRONMENT)
    failed = 0
    for path in map(Path, paths):
        try:
            seconds = run(path)
        except CellExecutionError as error:
            print(f"{path}: failed, left as it was\n{error}")
            failed = 1
            continue
        print(f"{path}  {seconds:.1f} s  {path.stat().st_size / 1024:.0f} KiB")
        if seconds > BUDGET:
            print(f"{path}: over the budget of {BUDGET} s; make a part of it a record")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if sys.argv[1:] else __doc__)
