"""Pages of one self-contained file, from templates of Jinja2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def render_page(template: str, values: Mapping[str, Any], **filters: Callable[..., str]) -> str:
    """Fill in a template, named by its path in the package; every text is escaped.

    Stray bytes of a path that is not valid UTF-8 become `?`.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipcls", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(values).encode(errors="replace").decode()
