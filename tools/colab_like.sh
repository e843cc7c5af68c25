#!/bin/sh
# Run the chapters under the old front-end packages that Colab has, to find what breaks there.
# The versions are those of github.com/googlecolab/backend-info, pip-freeze.txt, 19 Aug 2026; Colab
# itself runs Python 3.13. torch, transformers and mmlib are those of .venv (make setup).
set -eu
cd "$(dirname "$0")/.."
here=$(pwd)
venv=.colab_like
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet ipython==7.34.0 ipykernel==6.17.1 ipywidgets==7.7.1 \
  matplotlib==3.10.0 numpy==2.1.3 pillow==11.3.0 tqdm==4.67.3 nbclient nbformat setuptools

# What this environment lacks comes from .venv, behind its own packages on the path.
purelib=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
other=$("$here/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "import site; site.addsitedir('$other')" > "$purelib/from_venv.pth"

export PYDEVD_DISABLE_FILE_VALIDATION=1  # or each old kernel prints a page of warnings
"$venv/bin/python" - <<'PYTHON'
import glob
import os
import sys

import IPython
import nbformat
import numpy
import torch
from nbclient import NotebookClient

sys.path.insert(0, ".")
from tools.run_notebooks import ENVIRONMENT  # noqa: E402

os.environ.update(ENVIRONMENT)
assert IPython.__version__.startswith("7.") and numpy.__version__ == "2.1.3", "not Colab's versions"
print(f"IPython {IPython.__version__}, numpy {numpy.__version__}, torch {torch.__version__}")
errors = 0
for path in sorted(glob.glob("notebooks/*.ipynb")):
    notebook = nbformat.read(path, 4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", allow_errors=True,
        resources={"metadata": {"path": "notebooks"}},
    ).execute()
    for cell in notebook.cells:
        if "raises-exception" in cell.metadata.get("tags", []):
            continue
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                errors += 1
                print(f"{path} {cell.id}: {output.ename} {output.evalue[:300]}")
    print(f"{path}: run")
print(f"{errors} errors under Colab's front-end packages")
sys.exit(bool(errors))
PYTHON
