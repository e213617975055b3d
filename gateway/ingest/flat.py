"""The format "flat": any columns, placed in items by a mapping."""

from typing import Any

from gateway.catalog.item import AttributeValue, CatalogItem
from gateway.ingest.mapping import Mapping
from gateway.ingest.records import Fields
from gateway.ingest.values import convert, is_absent, join_texts, plain
from gateway.ingest.vitrine import item_id_of, title_of


class FlatFormat:
    """Makes items out of records as a mapping says."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._mapped = mapping.columns()
        self._attributes = [
            (name, attribute.column, attribute.kind)
            for name, attribute in mapping.attributes.items()
        ]

    def to_item(self, fields: Fields) -> CatalogItem:
        """Return the item in a record.

        Raises:
            Refused: it has no id or no title, or an attribute's value is of another kind.
        """
        return CatalogItem(
            item_id=item_id_of(fields.get(self._mapping.item_id)),
            title=title_of(fields.get(self._mapping.title)),
            texts=self._texts(fields),
            attributes=self._attribute_values(fields),
            metadata=self._metadata(fields),
        )

    def _texts(self, fields: Fields) -> dict[str, str]:
        return {
            name: text
            for name, column in self._mapping.texts.items()
            if (text := join_texts(fields.get(column)))
        }

    def _attribute_values(self, fields: Fields) -> dict[str, AttributeValue]:
        return {
            name: convert(name, value, kind)
            for name, column, kind in self._attributes
            if not is_absent(value := fields.get(column))
        }

    def _metadata(self, fields: Fields) -> dict[str, Any]:
        if self._mapping.unmapped == "drop":
            return {}
        return {
            column: plain(value, depth=1)
            for column, value in fields.items()
            if column not in self._mapped and not is_absent(value)
        }
