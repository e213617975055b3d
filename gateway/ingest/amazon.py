"""The format "amazon": item metadata as published with Amazon Reviews 2023.

Source: Hou et al., "Bridging Language and Items for Retrieval and Recommendation"
(arXiv 2403.03952), meta_*.jsonl.gz. The files hold prices as text, details as a JSON text or an
object, media as a list of objects or an object of lists, and nulls anywhere.
"""

from typing import Any

import orjson

from gateway.catalog.item import KEYWORD_BYTES_MAX, KEYWORDS_MAX, AttributeValue, CatalogItem
from gateway.ingest.records import Fields
from gateway.ingest.values import is_absent, join_texts, keywords_of, parse_amount, plain
from gateway.ingest.vitrine import item_id_of, title_of

_MARKS = frozenset(
    {"main_category", "store", "average_rating", "rating_number", "categories", "details"}
)
# The details that shoppers filter on, by the names that sellers give them.
_ATTRIBUTE_OF_DETAIL = {
    "Brand": "brand",
    "Color": "color",
    "Material": "material",
    "Fabric Type": "material",
    "Department": "department",
    "Style": "style",
    "Pattern": "pattern",
    "Size": "size",
}
_NUMBERS = {"price": "price", "rating": "average_rating", "num_ratings": "rating_number"}


def looks_like_amazon(columns: set[str]) -> bool:
    """Tell whether records with these fields are in this format."""
    return {"parent_asin", "title"} <= columns and bool(columns & _MARKS)


def to_item(fields: Fields) -> CatalogItem:
    """Return the item in a record.

    Raises:
        Refused: it has no id or no title.
    """
    details = _details(fields.get("details"))
    return CatalogItem(
        item_id=item_id_of(fields.get("parent_asin") or fields.get("asin")),
        title=title_of(fields.get("title")),
        texts=_texts(fields),
        attributes=_attributes(fields, details),
        metadata=_metadata(fields, details),
    )


def _texts(fields: Fields) -> dict[str, str]:
    texts = {}
    for name in ("features", "description", "subtitle"):
        if (value := fields.get(name)) and (text := join_texts(value)):
            texts[name] = text
    return texts


def _attributes(fields: Fields, details: dict[str, Any]) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    _add_keyword(attributes, "brand", fields.get("store"))
    _add_keyword(attributes, "category", fields.get("main_category"))
    if categories := keywords_of(fields.get("categories")):
        attributes["categories"] = categories[:KEYWORDS_MAX]
    for name, column in _NUMBERS.items():
        value = fields.get(column)
        if value is not None and (amount := parse_amount(value)) is not None:
            attributes[name] = amount
    if details:
        for detail, name in _ATTRIBUTE_OF_DETAIL.items():
            if name not in attributes:
                _add_keyword(attributes, name, details.get(detail))
    return attributes


def _add_keyword(attributes: dict[str, AttributeValue], name: str, value: object) -> None:
    """Set a keyword; one that is absent or far too long for a filter stays out."""
    if isinstance(value, str) and not is_absent(value):
        keyword = value.strip()
        if len(keyword.encode()) <= KEYWORD_BYTES_MAX:
            attributes[name] = keyword


def _metadata(fields: Fields, details: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    if images := [_image(image) for image in _objects(fields.get("images"))]:
        metadata["images"] = images
    if videos := [video["url"] for video in _objects(fields.get("videos")) if video.get("url")]:
        metadata["videos"] = videos
    if details:
        metadata["details"] = details
    plain_metadata: dict[str, Any] = plain(metadata)
    return plain_metadata


def _image(image: dict[str, Any]) -> dict[str, Any]:
    return {size: image[size] for size in ("large", "thumb") if image.get(size)}


def _objects(value: object) -> list[dict[str, Any]]:
    """Return media as a list of objects, also where they come as an object of lists."""
    if isinstance(value, list):
        return [media for media in value if isinstance(media, dict)]
    if not isinstance(value, dict) or not value:
        return []
    lists = {key: inner for key, inner in value.items() if isinstance(inner, list)}
    length = max((len(inner) for inner in lists.values()), default=0)
    return [
        {key: inner[place] for key, inner in lists.items() if place < len(inner)}
        for place in range(length)
    ]


def _details(value: object) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return {}
    return value if isinstance(value, dict) else {}
