"""The front door: links of the pages lead somewhere, the example of the README runs, versions agree."""

import ast
import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.configs import anndata as own_file
from pdae_jax import build
from pdae_jax.cli.sweeps.searches import random_settings
from pdae_jax.data.own_data import own_data

REPOSITORY = Path(__file__).parents[1]
PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "experiments").rglob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_and_file_names_of_a_page_lead_somewhere(page):
    text = page.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (page.parent / link).exists()]
    named = re.findall(r"`((?:pdae_jax|experiments|tests|docs)/[\w/]+\.(?:py|md))`", text)
    missing += [name for name in named if not (REPOSITORY / name).exists()]
    assert not missing


def test_readme_is_short_and_names_targets_that_exist():
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets


@pytest.mark.slow
def test_the_example_of_the_readme_runs(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    code = f"{example}\nprint(sorted(set(table['method'])))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert printed[0].startswith("(2000, 2) ('x0', 'x1') A+B: ")
    assert len(eval(printed[-1])) == 1 + 7 + 1  # the model, the baselines, the ceiling


# Words that begin a docstring and are never verbs. Plurals, the third person ("Returns") and signs show themselves.
# Properties are nouns, as attributes are.
NO_VERB = re.compile(
    "What|Whether|Which|Where|When|How|Why|Of|For|In|On|At|By|As|So|No|The|A|An|One|"
    "Two|First|Another|All|Any|Both|Each|Every|Some|Those|These|This|That|It|Data|Mean|"
    "Median|Largest|Smallest|Distance|Energy|Squared|Variance|Standard|Negative|Adjusted|Half|"
    "Chance|Pearson|Additive|Trained|Predicted|Measured|True|Maximum|Adam|Quotient|Mapped|"
    "Filled|Symmetric|Gaussian|Permutation|Model|Everything"
)
VERBS_IN_S = frozenset({"Pass", "Press", "Process", "Guess", "Discuss", "Express"})


def public_functions(tree: ast.AST) -> list[ast.FunctionDef]:
    """List functions and methods without an underscore, but properties and what is inside of functions."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += public_functions(node)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found += [] if any("property" in ast.unparse(each) for each in node.decorator_list) else [node]
    return found


def test_docstrings_of_public_functions_begin_with_a_verb():
    others = []
    for file in sorted((REPOSITORY / "pdae_jax").rglob("*.py")):
        for function in public_functions(ast.parse(file.read_text())):
            first = (ast.get_docstring(function) or "Do").split()[0].rstrip(",:;.")
            is_word = re.fullmatch("[A-Z][a-z]+(-[a-z]+)?", first) and not NO_VERB.fullmatch(first)
            if not is_word or (first.endswith("s") and first not in VERBS_IN_S):
                others.append(f"{file.relative_to(REPOSITORY)}, line {function.lineno}, {function.name}: {first}")
    assert not others


def test_versions_agree():
    cited = re.search(r"^version: (.+)$", (REPOSITORY / "CITATION.cff").read_text(), re.MULTILINE)
    stated = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert cited and stated and cited[1] == stated[1] == importlib.metadata.version("pdae_jax")
    assert f"## {stated[1]}" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_the_config_of_the_guide_builds(tmp_path, monkeypatch):
    """As it is printed, on a file with its column names."""
    text = (REPOSITORY / "docs" / "guide" / "experiments.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    made: dict = {}
    for example in examples:
        exec(example, made)
    assert len(random_settings(made["get_space"](), 3, seed=0)) == 3
    monkeypatch.chdir(tmp_path)
    own_file.write_example("my.h5ad")
    experiment = build.experiment(made["get_config"]())
    assert experiment.test.conditions == ("A+B", "A+C") and experiment.recipe.latent_dim == 6
    assert [point["fit.latent_dim"] for point in made["get_sweep"]()] == [4, 6, 8]


def test_the_fields_of_a_file_are_in_the_guide_and_in_the_config():
    """What can be set is what is documented."""
    arguments = {*inspect.signature(own_data).parameters, "test_path"} - {"split", "like"}  # `build` passes these
    fields = {f"config.data.{name}" for name in arguments}
    for text in ((REPOSITORY / "docs" / "guide" / "data.md").read_text(), own_file.__doc__ or ""):
        assert fields == set(re.findall(r"^(?:\| `| {4})(config\.data\.\w+)", text, re.MULTILINE))
    assert {f"config.data.{name}" for name in own_file.get_config().data if name != "name"} == fields


def test_a_site_that_asks_another_host_is_not_whole(tmp_path):
    sys.path.insert(0, str(REPOSITORY / "docs"))
    try:
        from check import read, remote  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop(0)
    page = """<link rel="stylesheet" href="%s/a.css"><script src="%s/b.js"></script><img src="%s/c.png">
        <a href="https://a.b/c">elsewhere</a><link rel="canonical" href="https://a.b">"""
    (tmp_path / "whole.html").write_text(page % (("own",) * 3))
    (tmp_path / "whole.css").write_text("a { background: url('own.png') }")
    assert list(remote(read(tmp_path), tmp_path)) == []
    (tmp_path / "part.html").write_text(page % ("https://cdn.x", "//cdn.y", "http://cdn.z"))
    (tmp_path / "part.css").write_text("@import 'https://a.b/c.css'; @font-face { src: url(//a.b/f.woff2) }")
    found = "\n".join(remote(read(tmp_path), tmp_path))
    assert found.count("part.html") == 3 and found.count("part.css") == 2 and "whole" not in found
