"""An item's text: the bundle's item template, filled in."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from protos.vitrine.v1.types_pb2 import AttributeValue, Item
from rpc.errors import InvalidArgument

_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


@dataclass(frozen=True, slots=True)
class ItemTemplate:
    """Which of an item's fields become its text, as "{title} by {brand}".

    A field is the title, else one of the item's texts, else a keyword attribute (several keywords
    are joined with spaces, numbers are written out). A missing one is empty.
    """

    template: str
    fields: tuple[str, ...]

    @classmethod
    def parse(cls, template: str) -> "ItemTemplate":
        """Return a template.

        Raises:
            InvalidArgument: it names no field, or braces do not match.

        >>> ItemTemplate.parse("{title}. {brand}").fields
        ('title', 'brand')
        """
        fields = tuple(_FIELD.findall(template))
        named = all(_FIELD_NAME.fullmatch(field) for field in fields)
        outside = _FIELD.sub("", template)
        if not fields or not named or "{" in outside or "}" in outside:
            raise InvalidArgument(
                "item_template", template, 'fields in braces, as in "{title}. {brand}"'
            )
        return cls(template, fields)

    def render(self, item: Item) -> str:
        """Return an item's text; runs of white space become one space.

        >>> item = Item(title="Rain  boots", texts={"color": "navy"})
        >>> ItemTemplate.parse("{title}, {color}").render(item)
        'Rain boots, navy'
        >>> ItemTemplate.parse("{title} {brand}").render(item)
        'Rain boots'
        """
        values = {field: field_text(item, field) for field in self.fields}
        filled = _FIELD.sub(lambda match: values[match.group(1)], self.template)
        return " ".join(filled.split())


def field_text(item: Item, field: str) -> str:
    """Return one field of an item as text, empty when it is missing.

    >>> item = Item(title="Scarf", attributes={"brand": AttributeValue(keyword="Acme")})
    >>> field_text(item, "title"), field_text(item, "brand"), field_text(item, "color")
    ('Scarf', 'Acme', '')
    """
    if field == "title":
        return item.title
    if field in item.texts:
        return item.texts[field]
    if field not in item.attributes:
        return ""
    value = item.attributes[field]
    kind = value.WhichOneof("kind")
    return _ATTRIBUTE_TEXT[kind](value) if kind in _ATTRIBUTE_TEXT else ""


_ATTRIBUTE_TEXT: dict[str | None, Callable[[AttributeValue], str]] = {
    "keyword": lambda value: value.keyword,
    "keywords": lambda value: " ".join(value.keywords.values),
    "number": lambda value: f"{value.number:.15g}",
}
