"""A mkdocs hook for links from docs/ to other files of the repository.

As plain Markdown such links work. The site has no page for them, so here they become the file's
name, linked only if mkdocs.yml has a `repo_url`. A link to a missing file fails the build.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page

LINK = re.compile(r"\[([^\]\n]*)\]\(((?:\.\./)+[^)\s]+)\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Replace the links that lead out of docs/."""
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def replace(link: re.Match[str]) -> str:
        text, target = link.groups()
        path = posixpath.normpath(posixpath.join(folder, target.partition("#")[0]))
        if path.startswith("docs/"):
            return link[0]
        if path.startswith("..") or not Path(path).exists():
            raise PluginError(f"{page.file.src_uri} links to the missing file {target}")
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})"
        return text if path in text else f"{text} (`{path}`)"

    return LINK.sub(replace, markdown)
