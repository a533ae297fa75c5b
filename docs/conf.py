"""The site: `make docs`."""

import ast
import collections
import importlib.metadata
import inspect
import pathlib
import shutil
import textwrap

HERE = pathlib.Path(__file__).parent

project = "pdae_jax"
author = "pdae_jax authors"
project_copyright = author
release = version = importlib.metadata.version("pdae_jax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]

# notebooks are shown as they are committed; `make notebooks` runs them. Sphinx reads within its own folder only
nb_execution_mode = "off"
(HERE / "notebooks").mkdir(exist_ok=True)
for notebook in (HERE.parent / "notebooks").glob("*.ipynb"):
    shutil.copy2(notebook, HERE / "notebooks")
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "py:obj"  # single backticks name an object; one that is not public stays plain

html_theme = "sphinx_book_theme"
html_title = "pdae_jax"
html_theme_options = {"show_toc_level": 2, "show_navbar_depth": 1}
html_copy_source = False
html_show_sourcelink = False

# a page of another project may be away for a day; that is for a person to judge
linkcheck_timeout = 20
linkcheck_retries = 2


def describe_fields(app, what, name, obj, options, lines):
    """Fields of a class, each with its type and the comment beside it in the source."""
    if what != "class" or not obj.__module__.startswith("pdae_jax."):
        return
    source = textwrap.dedent(inspect.getsource(obj))
    (definition,) = ast.parse(source).body
    fields = [node for node in definition.body if isinstance(node, ast.AnnAssign)]
    for field in fields:
        comment = source.splitlines()[field.end_lineno - 1].partition("  # ")[2]
        lines += [f":ivar {field.target.id}: {comment}", f":vartype {field.target.id}: {ast.unparse(field.annotation)}"]
    lines.append("")


def skip_fields(app, what, name, obj, skip, options):
    """Of a NamedTuple: autodoc would list each field again, as "Alias for field number 0"."""
    return True if isinstance(obj, type(collections.namedtuple("Pair", "x").x)) else None


def setup(app):
    app.connect("autodoc-process-docstring", describe_fields, priority=900)  # after napoleon
    app.connect("autodoc-skip-member", skip_fields)
