"""The book's drawings on the reader's own numbers, with sliders; needs a kernel that answers."""

from __future__ import annotations

import base64
import html
import inspect
import os
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure

from mmlib.book import figures
from mmlib.errors import UserError, expected

Drawn = tuple[Figure, str]


def explore(function: Callable[..., Drawn], **controls: Any) -> None:
    """Display what a function draws, and a control for each of its arguments that is named here.

    function returns a figure and its alternative text, as those of `mmlib.book.drawing` do. A
    control is (low, high, step) for a slider, a list for a choice, or True or False; it starts at
    the function's default, else at its first setting:

        explore(lambda row: drawing.attends(words, table[row], words[row]), row=(0, 4, 1))

    Where outputs are stored (`tools/run_notebooks.py` and nbval set MMLIB_STORED) this shows the
    first figure alone: a page without a kernel could not answer.

    Raises UserError where a control is none of these.
    """
    start = {name: _first(function, name, control) for name, control in controls.items()}
    if os.environ.get("MMLIB_STORED"):
        figures.show(*function(**start))
        return
    import ipywidgets  # 0.2 s that a stored page need not wait for

    picture = ipywidgets.HTML()
    inputs = {
        name: ipywidgets.interactive.widget_from_abbrev(control, start[name])
        for name, control in controls.items()
    }

    def draw(_: object = None) -> None:
        picture.value = _page(function, {name: widget.value for name, widget in inputs.items()})

    for name, widget in inputs.items():
        widget.description = name
        widget.observe(draw, "value")
    draw()
    display(ipywidgets.VBox([*inputs.values(), picture]))


def _first(function: Callable[..., Drawn], name: str, control: Any) -> Any:
    """Where a control starts."""
    match control:
        case bool():
            first: Any = control
        case (int() | float(), int() | float(), int() | float()) if isinstance(control, tuple):
            first = control[0]
        case [_, *_] if isinstance(control, list):
            first = control[0]
        case _:
            raise expected(f"(low, high, step), a list or a bool for {name}", control, "pass one")
    default = inspect.signature(function).parameters.get(name)
    return first if default is None or default.default is default.empty else default.default


def _page(function: Callable[..., Drawn], values: dict[str, Any]) -> str:
    """What the function draws there as HTML, or its error in one line."""
    before = set(plt.get_fignums())
    try:
        figure, alt = function(**values)
        width = round(figure.get_size_inches()[0] * 100)
        coded = base64.b64encode(figures.png_bytes(figure)).decode()
    except Exception as error:  # the reader's own: it is said, and the sliders stay
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        line = (str(error).splitlines() or [""])[0]
        return f'<p role="alert">{html.escape(kind + line)}</p>'
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
    return (
        f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{coded}" '
        f'style="width:{width}px;max-width:100%;background:#fff">'
    )
