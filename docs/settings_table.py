"""Write the tables of settings in docs/operations.md from the settings themselves.

    python docs/settings_table.py

Each table stands between `<!-- settings:NAME -->` and `<!-- /settings:NAME -->`. A test fails when
the page is not what this would write.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from encoder_service.settings import EncoderSettings
from gateway.settings import GatewaySettings
from index_service.settings import IndexSettings
from rpc.settings import ServiceSettings

PAGE = Path(__file__).parent / "operations.md"
SERVICES: dict[str, type[ServiceSettings]] = {
    "encoder": EncoderSettings,
    "index": IndexSettings,
    "gateway": GatewaySettings,
}
COMMON = {
    name: field
    for name, field in ServiceSettings.model_fields.items()
    if name not in ("port", "http_port")
}
_SIGNS = {Ge: ">=", Gt: ">", Le: "<=", Lt: "<"}


def tables() -> dict[str, str]:
    """Return every table by its name."""
    own = {
        name: {field: info for field, info in kind.model_fields.items() if field not in COMMON}
        for name, kind in SERVICES.items()
    }
    return {"common": _table(COMMON), **{name: _table(fields) for name, fields in own.items()}}


def with_tables(page: str) -> str:
    """Return the text of a page with its tables replaced by what they should be."""
    for name, table in tables().items():
        begin, end = f"<!-- settings:{name} -->", f"<!-- /settings:{name} -->"
        place = re.search(f"{begin}.*?{end}", page, re.DOTALL)
        if place is None:
            raise SystemExit(f"error: {PAGE} has no {begin} ... {end}")
        page = f"{page[: place.start()]}{begin}\n{table}\n{end}{page[place.end() :]}"
    return page


def _table(fields: dict[str, FieldInfo]) -> str:
    rows = [_row(name, field) for name, field in fields.items()]
    return "\n".join(["| setting | default | allowed | meaning |", "|---|---|---|---|", *rows])


def _row(name: str, field: FieldInfo) -> str:
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{name.upper()}` | {_default(field)} | {_allowed(field)} | {meaning} |"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "none"
    value = field.default
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    if isinstance(field.annotation, type) and issubclass(field.annotation, StrEnum):
        return ", ".join(f"`{value}`" for value in field.annotation)
    if field.annotation is bool:
        return "`true`, `false`"
    bounds = [
        f"{sign} {_number(getattr(bound, kind.__name__.lower()))}"
        for bound in field.metadata
        for kind, sign in _SIGNS.items()
        if isinstance(bound, kind)
    ]
    return ", ".join(bounds)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
