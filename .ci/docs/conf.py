"""What Sphinx reads to make the reference of docstrings, and one site of it and all other pages. build.py runs it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "funcnet"
html_title = "funcnet"
html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_static_path: list[str] = []
html_show_copyright = False
html_show_sphinx = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "docstrings"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "README"
myst_heading_anchors = 3
default_role = "literal"
highlight_language = "python"
nitpicky = True  # with -W, a reference that leads nowhere is an error

autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "member-order": "bysource", "undoc-members": False}
autodoc_inherit_docstrings = False  # torch's are not ours
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_use_type_comments = False
maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"
