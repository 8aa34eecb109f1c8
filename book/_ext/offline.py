"""Sphinx extension: the book needs no network. plotly.js comes from the installed package, and the
scripts of thebe, which would run cells on a server and which no page uses, are left out.
"""

import shutil
from pathlib import Path

import plotly


def copy_library(app, error):
    """Put plotly.min.js beside the other static files of a finished HTML build."""
    if error is None and app.builder.format == "html":
        source = Path(plotly.__file__).with_name("package_data") / "plotly.min.js"
        folder = Path(app.outdir) / "_static"
        folder.mkdir(exist_ok=True)
        shutil.copyfile(source, folder / source.name)


def drop_thebe(app, page, template, context, doctree):
    """Jupyter Book adds these scripts twice, which browsers report as an error."""
    scripts = context.get("script_files", [])
    context["script_files"] = [s for s in scripts if "thebe" not in _described(s)]


def _described(script) -> str:
    return f"{getattr(script, 'filename', script)} {getattr(script, 'attributes', '')}".lower()


def setup(app):
    """Called by Sphinx, see `local_extensions` in _config.yml."""
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", copy_library)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
