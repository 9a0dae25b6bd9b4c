"""Configure Sphinx, which makes a site of the pages of the repository.

python -m sphinx --fail-on-warning -c docs . build/site
"""

import sam_jax

project = "sam_jax"
author = "The sam_jax authors"
version = release = sam_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# The source is the root: links between pages are the same here and on GitHub.
root_doc = "docs/index"
include_patterns = ["*.md", "configs/README.md", "docs/**"]
html_theme = "furo"
html_title = f"sam_jax {version}"

# The anchors of headings are those of GitHub.
myst_heading_anchors = 3
# Notebooks are shown as they are stored. The tests run them.
nb_execution_mode = "off"

# Docstrings have code in single backquotes.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
