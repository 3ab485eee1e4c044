"""Pages from their templates."""

from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).with_name("templates")


def render(template: Path, content: dict[str, Any]) -> str:
    """A page in HTML or Markdown, by its template's name; one in HTML extends base.html.j2, the look of all."""
    from jinja2 import Environment, FileSystemLoader

    html = template.name.endswith(".html.j2")
    environment = Environment(
        loader=FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=html,
        trim_blocks=True,
        lstrip_blocks=html,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    return environment.get_template(template.name).render(content)
