"""What the book asks of its site beyond Jupyter Book, most of it enforced by `-W`.

1. No page may make a browser fetch anything from another host: after the build every HTML and CSS
   file is read, and each such address is a warning, which fails the build. A link is allowed.
2. Every picture needs alternative text. A notebook's pictures carry it in the metadata of their
   output, where `mmlib.book.figures.show` puts it; a picture without is a warning.
3. `\\tag{4.1}` in a displayed equation makes it a target: `[(4.1)](#eq-4.1)` links to it. The
   number is part of the formula, so it shows in Colab and on GitHub too.
4. A quotation that begins with **Exercise** or **Predict**, and a table's number with its interval,
   are marked for the stylesheet.
5. The first page gets a plain redirect with a title and an icon, and GitHub Pages its .nojekyll.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.core.render import NbElementRenderer
from outside import outside_requests
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

log = logging.getLogger(__name__)

NUMBER = re.compile(r"[+−-]?\d[\d.,]*\s?%?( \[.*\])?")  # with its interval, or without
TAG = re.compile(r"\\tag\{(\d+\.\d+)\}")


class TaggedEquations(SphinxTransform):
    """Makes each displayed equation with a \\tag a target named eq-<its number>."""

    default_priority = 400  # before the domains collect the labels of the page

    def apply(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(nodes.math_block)):
            tag = TAG.search(node.astext())
            if not tag:
                continue
            # Sphinx wraps a formula of several lines in `split`, where MathJax allows no \tag.
            formula = node.astext().strip()
            node.children = []
            node += nodes.Text(rf"\[{formula}\]")
            node["nowrap"] = node["no-wrap"] = True
            name = f"eq-{tag[1]}"
            target = nodes.target("", "", ids=[nodes.make_id(name)], names=[name])
            self.document.note_explicit_target(target)
            node.replace_self([target, node])
            # a title, so that Sphinx accepts the target in a link of any form
            self.env.get_domain("std").anonlabels[name] = (self.env.docname, nodes.make_id(name))


class MarkedParts(SphinxTransform):
    """Classes for the stylesheet: what asks something of the reader, numbers that may not break."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        for node in self.document.findall(nodes.block_quote):
            word = node.astext().lstrip().split(" ", 1)[0].lower()
            if word in ("exercise", "predict"):
                node["classes"].append(f"mm-{word}")
        for node in self.document.findall(nodes.entry):
            if NUMBER.fullmatch(node.astext().strip()):
                node["classes"].append("mm-number")


def take_alt_from_outputs() -> None:
    """Let myst-nb write the alternative text that an output's metadata holds."""
    original = NbElementRenderer.render_image
    if getattr(original, "takes_alt", False):
        return

    def render_image(self: NbElementRenderer, data: Any) -> list[nodes.Element]:
        made = original(self, data)
        alt = data.output_metadata.get(data.mime_type, {}).get("alt")
        for node in made:
            if alt and not node.get("alt"):
                node["alt"] = alt
        return made

    render_image.takes_alt = True  # type: ignore[attr-defined]
    NbElementRenderer.render_image = render_image


def warn_of_missing_alt(app: Sphinx, document: nodes.document) -> None:
    """A picture without alternative text is a warning, and so fails the build."""
    for node in document.findall(nodes.image):
        if not (node.get("alt") or "").strip():
            log.warning("a picture without alternative text", location=node)


def finish(app: Sphinx, error: Exception | None) -> None:
    """After the build: the first page, .nojekyll, and the search for outside requests."""
    if error is not None or app.builder.format != "html":
        return
    start = f"{app.config.root_doc}.html"
    Path(app.outdir, ".nojekyll").touch()
    Path(app.outdir, "index.html").write_text(
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{app.config.html_title or app.config.project}</title>"
        f'<link rel="icon" href="data:,">'
        f'<meta http-equiv="refresh" content="0; url={start}"></head>'
        f'<body><p><a href="{start}">Start here</a></p></body></html>\n',
        "utf8",
    )
    for page, addresses in outside_requests(Path(app.outdir)).items():
        for address in addresses:
            log.warning("%s fetches %s", page, address)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx when it loads the extension."""
    # Jupyter Book sets the option of sphinx_comments even where that extension is left out, and
    # Sphinx warns of an option that nobody declared.
    if "comments_config" not in app.config.values:
        app.add_config_value("comments_config", {}, "")
    app.add_js_file("mm-book.js", priority=900)
    app.add_transform(TaggedEquations)
    app.add_transform(MarkedParts)
    take_alt_from_outputs()
    app.connect("doctree-read", warn_of_missing_alt)
    app.connect("build-finished", finish)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
