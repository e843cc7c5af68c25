"""The switches under which every test and every kernel that nbval starts runs."""

import os

from tools.run_notebooks import ENVIRONMENT

os.environ.update(ENVIRONMENT)
