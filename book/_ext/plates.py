"""Sphinx extension: the files of every figure beside the pages, as SVG, PDF, PNG and CSV.

A figure of ``flatbook.figures.plate`` carries its files in the outputs of its notebook. They are
written to the folder ``_figures`` of a finished HTML build, and its links are led there.
"""

import json
import re
from base64 import b64decode
from pathlib import Path

from flatbook.figures.plate import FILES

FOLDER = "_figures"


def lead(app, page, template, context, doctree):
    """Point the links of a page to the folder, from wherever the page lies."""
    if FILES in context.get("body", ""):
        folder = context["pathto"](FOLDER, resource=True)
        context["body"] = context["body"].replace(FILES, f"{folder}/")


def write(app, error):
    """Write the files of all figures of a finished build."""
    if error is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir) / FOLDER
    folder.mkdir(exist_ok=True)
    for page in sorted(app.env.found_docs):
        path = Path(app.env.doc2path(page))
        if path.suffix == ".ipynb":
            for name, content in files(json.loads(path.read_text(encoding="utf-8"))):
                (folder / name).write_bytes(content)


def files(notebook: dict):
    """(file name, content) of every figure in a notebook."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if name := output.get("metadata", {}).get("flatbook", {}).get("name"):
                data = {kind: "".join(text) for kind, text in output["data"].items()}
                yield f"{name}.svg", _drawing(data["text/html"])
                yield f"{name}.csv", data["text/csv"].encode()
                for kind in ("png", "pdf"):
                    mime = "image/png" if kind == "png" else "application/pdf"
                    yield f"{name}.{kind}", b64decode(data[mime])


def _drawing(html: str) -> bytes:
    """The SVG of a page as a file of its own, its colours those of the light page."""
    svg = html[html.index("<svg"): html.rindex("</svg>") + len("</svg>")]
    return re.sub(r"var\(--c-\w+, (#\w+)\)", r"\1", svg).encode()


def setup(app):
    """Called by Sphinx, see `local_extensions` in _config.yml."""
    app.connect("html-page-context", lead)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
