"""Sphinx: the pages of docs/, results/ and of each engine as one site, by `just docs`. A broken link is an error."""

project = "enginebench"
extensions = ["myst_parser"]
include_patterns = ["docs/*.md", "results/SCHEMA.md", "packages/*/README.md"]
root_doc = "docs/index"
html_theme = "furo"
html_title = "enginebench"
html_show_copyright = False
myst_heading_anchors = 4
myst_enable_extensions = ["strikethrough"]
