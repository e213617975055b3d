"""Which column of a flat file becomes which part of an item; kept by users as TOML.

    item_id = "sku"
    title = "name"
    unmapped = "metadata"

    [texts]
    description = "long_description"

    [attributes]
    price = {column = "unit_price", kind = "number"}

What `unmapped` says ("metadata" or "drop") happens to all other columns.
"""

import json
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from gateway.catalog.item import ATTRIBUTE_KINDS, AttributeKind, is_attribute_name
from rpc.terminal import CommandError


class AttributeColumn(BaseModel):
    """The column that an attribute is read from, and the kind of its values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    kind: AttributeKind


class Mapping(BaseModel):
    """Item field -> column."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item_id: str
    title: str
    unmapped: Literal["metadata", "drop"] = "metadata"
    texts: dict[str, str] = {}
    attributes: dict[str, AttributeColumn] = {}

    @field_validator("attributes")
    @classmethod
    def _names_are_allowed(cls, named: dict[str, AttributeColumn]) -> dict[str, AttributeColumn]:
        for name in named:
            if not is_attribute_name(name):
                raise ValueError(f'{name!r} is no attribute name: use letters, digits, "_", "."')
        return named

    def columns(self) -> set[str]:
        """Return the columns that are mapped."""
        attributes = {attribute.column for attribute in self.attributes.values()}
        return {self.item_id, self.title, *self.texts.values(), *attributes}

    def to_toml(self) -> str:
        """Return the mapping as users keep it.

        >>> print(Mapping(item_id="sku", title="name").to_toml())
        item_id = "sku"
        title = "name"
        unmapped = "metadata"
        """
        lines = [f"{name} = {_quoted(getattr(self, name))}" for name in _PLAIN_FIELDS]
        if self.texts:
            lines += ["", "[texts]"]
            lines += [f"{_quoted(name)} = {_quoted(col)}" for name, col in self.texts.items()]
        if self.attributes:
            lines += ["", "[attributes]"]
            lines += [
                f"{_quoted(name)} = {{column = {_quoted(a.column)}, kind = {_quoted(a.kind)}}}"
                for name, a in self.attributes.items()
            ]
        return "\n".join(lines)


_PLAIN_FIELDS = ("item_id", "title", "unmapped")


def read_mapping(path: Path) -> Mapping:
    """Read a mapping that a user wrote.

    Raises:
        CommandError: it is no TOML, or says what is not allowed.
    """
    try:
        return Mapping.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise CommandError(f"{path}: not TOML: {exc}") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CommandError(f"{path}: {where}: {first['msg']}") from exc


class MappedField(BaseModel):
    """One --map FIELD=COLUMN."""

    model_config = ConfigDict(frozen=True)

    part: Literal["item_id", "title", "texts", "attributes"]
    name: str
    column: str
    kind: AttributeKind | None = None


def parse_map_option(option: str) -> MappedField:
    """Read FIELD=COLUMN; FIELD is item_id, title, texts.NAME, or [attributes.]NAME[:KIND].

    Raises:
        CommandError: it is none of these.

    >>> parse_map_option("price:number=unit_price")
    MappedField(part='attributes', name='price', column='unit_price', kind='number')
    """
    field, equals, column = option.partition("=")
    name, colon, kind = field.strip().partition(":")
    known_kind = next((known for known in ATTRIBUTE_KINDS if known == kind), None)
    if not (equals and name and column) or (colon and known_kind is None):
        kinds = "|".join(ATTRIBUTE_KINDS)
        raise CommandError(
            f"--map {option} is not FIELD=COLUMN; FIELD is item_id, title, texts.NAME or "
            f"attributes.NAME[:{kinds}]"
        )
    if name == "item_id":
        return MappedField(part="item_id", name=name, column=column)
    if name == "title":
        return MappedField(part="title", name=name, column=column)
    if name.startswith("texts."):
        return MappedField(part="texts", name=name.removeprefix("texts."), column=column)
    name = name.removeprefix("attributes.")
    if not is_attribute_name(name):
        raise CommandError(f'--map {option}: {name!r} is no attribute name: letters, digits, "_"')
    return MappedField(part="attributes", name=name, column=column, kind=known_kind)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
