"""The site: `make docs`."""

import ast
import collections
import importlib.metadata
import inspect
import pathlib
import re
import shutil
import textwrap

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

from pdae_jax.evaluation.metrics import METRICS

HERE = pathlib.Path(__file__).parent

project = "pdae_jax"
author = "pdae_jax authors"
project_copyright = author
release = version = importlib.metadata.version("pdae_jax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
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
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3


def metric_row(metric):
    """Say the name, the value of an exact prediction, and the function, or the public one that makes it."""
    function = metric.of.__qualname__.partition(".")[0]
    best = "calibrated" if metric.best is None else f"{metric.best:g}"
    return f"`{metric.name}`", best, f"{{func}}`~pdae_jax.evaluation.metrics.{function}`"


metric_rows = "\n".join("| " + " | ".join(metric_row(metric)) + " |" for metric in METRICS.values())
myst_substitutions = {"metrics": "| metric | exact prediction | defined in |\n|---|---|---|\n" + metric_rows}
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
# one search box, that of the sidebar
html_theme_options = {"show_toc_level": 2, "show_navbar_depth": 1, "navbar_persistent": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
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


def write_formula(writer, node):
    """MathML, which browsers draw without a script, so that the site is whole without a network."""
    block = isinstance(node, nodes.math_block)
    tag = "div" if block else "span"
    braced = re.sub(r"(\\[td]?frac)(\w)(\w)", r"\1{\2}{\3}", node.astext())  # docutils takes 12 for one number
    formula = tex2mathml(braced, as_block=block)
    formula = re.sub(r"<mo>([‖|])</mo>", r'<mo stretchy="false">\1</mo>', formula)  # stretched they leave the line
    writer.body.append(writer.starttag(node, tag, "", CLASS="math notranslate nohighlight") + formula + f"</{tag}>")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
    app.connect("autodoc-process-docstring", describe_fields, priority=900)  # after napoleon
    app.connect("autodoc-skip-member", skip_fields)
