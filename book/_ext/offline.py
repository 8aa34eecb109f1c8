"""Sphinx extension: plotly.js comes into the book from the installed package, not from the web."""

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


def setup(app):
    """Called by Sphinx, see `local_extensions` in _config.yml."""
    app.connect("build-finished", copy_library)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
