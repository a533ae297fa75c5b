"""Every public name has its place in the built site, every link within it leads somewhere, and all it needs is there.

python docs/check.py docs/_build/html
"""

import importlib
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

PUBLIC = (
    "pdae_jax",
    "pdae_jax.losses",
    "pdae_jax.kernels",
    "pdae_jax.linear_time",
    "pdae_jax.data.simulate",
    "pdae_jax.data.datasets",
    "pdae_jax.data.own_data",
)


class Page(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.needs: list[str] = []  # what a browser loads without being asked
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        loads = tag != "a" and dict(attrs).get("rel") not in ("canonical", "alternate", "search", "next", "prev")
        for name, value in attrs:
            if loads and name in ("href", "src", "data", "poster") and value:
                self.needs.append(value)
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def read(site: Path) -> dict[Path, Page]:
    """The pages of the site; those in ``_static`` are the theme's own."""
    found = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]
    return {path.resolve(): Page(path) for path in found}


def broken(pages: dict[Path, Page]) -> Iterator[str]:
    """One line per link that leads to no file, or to no place in its page."""
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if not target.exists() or (place and target in pages and place not in pages[target].places):
                yield f"{path.name}: the link {link} leads nowhere"


def remote(pages: dict[Path, Page], site: Path) -> Iterator[str]:
    """One line per script, style, font or picture of another host, without which a page would not be whole."""
    for path, page in pages.items():
        yield from (f"{path.name}: needs {link}" for link in page.needs if urlsplit(link).netloc)
    for path in sorted(site.rglob("*.css")):
        for link in re.findall(r"""(?:@import|url\()\s*["']?((?:https?:)?//[^"')\s]+)""", path.read_text()):
            yield f"{path.name}: needs {link}"


def undocumented(pages: dict[Path, Page]) -> Iterator[str]:
    """One line per public name without a place of its own."""
    places = {place for page in pages.values() for place in page.places}
    for module in PUBLIC:
        for name in public_names(module):
            if not places & {f"{module}.{name}", f"module-{module}.{name}"}:
                yield f"{module}.{name} is not in the API reference: add it to docs/api"


def public_names(module: str) -> list[str]:
    """``__all__``, or the functions and classes that a module defines."""
    loaded = importlib.import_module(module)
    own = [name for name, value in vars(loaded).items() if getattr(value, "__module__", None) == module]
    return getattr(loaded, "__all__", [name for name in own if not name.startswith("_")])


if __name__ == "__main__":
    site = read(Path(sys.argv[1]))
    found = [*undocumented(site), *broken(site), *remote(site, Path(sys.argv[1]))]
    whole = "all public names are there, all links within them lead somewhere, and no other host is asked"
    print("\n".join(found) or f"{len(site)} pages: {whole}.")
    sys.exit(bool(found))
