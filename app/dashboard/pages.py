"""Templates to answers: everything escaped, nothing loaded from elsewhere."""

from datetime import datetime
from typing import Any, Final

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import MediaType, Response
from markupsafe import Markup

from app.dashboard import assets

# Plotly writes style attributes, hence 'unsafe-inline' for styles, and only for them.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
MISSING: Final = "n/a"

_FIRST_STEPS: Final = """\
curl -X POST {url}/experiments \\
  -H "Authorization: Bearer $KEY" \\
  -H "Content-Type: application/json" -d '{{
    "key": "greeting",
    "variants": [
      {{"key": "control", "control": true, "payload": {{"prompt": "Be brief."}}}},
      {{"key": "warm", "payload": {{"prompt": "Be warm."}}}}]}}'
curl -X POST {url}/experiments/greeting/start \\
  -H "Authorization: Bearer $KEY"
curl "{url}/assign?experiment=greeting&unit=user-1" \\
  -H "Authorization: Bearer $KEY"
"""


def page(template: str, *, status_code: int = 200, **values: Any) -> Response[str]:
    """Return a rendered template with the headers of all pages."""
    text = _TEMPLATES.get_template(template).render(values)
    return Response(text, status_code=status_code, media_type=MediaType.HTML, headers=PAGE_HEADERS)


def first_steps(base_url: object) -> str:
    """Return commands that create and start a first experiment, and ask it for a variant."""
    return _FIRST_STEPS.format(url=str(base_url).rstrip("/"))


def _decimal(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _figure(value: float | None) -> str:
    """Return a number with four significant digits, or a whole number with thousands separated."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _bounds(interval: tuple[float, float] | None) -> str:
    return MISSING if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{share:.1%}"


def _minute(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M")


def _json(value: object) -> Markup:
    """JSON for a `script` element: no text in it can end the element."""
    return Markup(msgspec.json.encode(value).decode().replace("<", "\\u003c"))  # noqa: S704 - escaped here


def _count(number: int) -> str:
    return f"{number:,}"


_TEMPLATES: Final = Environment(
    loader=PackageLoader("app.dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "bounds": _bounds,
    "decimal": _decimal,
    "percent": _percent,
    "figure": _figure,
    "count": _count,
    "minute": _minute,
    "json": _json,
}
_TEMPLATES.globals["asset"] = assets.address
