"""Pages from their templates, and texts in them."""

from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).with_name("templates")
MISSING = "—"


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


def duration(seconds: float) -> str:
    """`12.3 s`, `4 min 5 s` or `1 h 3 min`."""
    if seconds != seconds:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
