"""Attributes that a text names: colors, sizes, materials, and whom a product is for.

A word is in one list only. Gold and silver are colors here, as reviews of shoes and lamps say
them; sterling is a material.
"""

import re

COLORS = frozenset((
    "beige", "black", "blue", "brown", "gold", "gray", "green", "grey", "navy", "orange", "pink",
    "purple", "red", "silver", "tan", "white", "yellow",
))  # fmt: skip
MATERIALS = frozenset((
    "aluminum", "bamboo", "brass", "ceramic", "copper", "cotton", "denim", "glass", "leather",
    "linen", "nylon", "plastic", "polyester", "rubber", "silicone", "silk", "stainless", "steel",
    "sterling", "suede", "velvet", "wood", "wool",
))  # fmt: skip
AUDIENCES = frozenset(("adult", "baby", "boy", "girl", "kid", "men", "toddler", "women"))
UNITS = {
    '"': "inch", "inch": "inch", "inches": "inch", "foot": "ft", "feet": "ft", "ft": "ft",
    "cm": "cm", "mm": "mm", "ml": "ml", "liter": "l", "liters": "l", "litre": "l", "litres": "l",
    "oz": "oz", "ounce": "oz", "ounces": "oz", "lb": "lb", "lbs": "lb", "pound": "lb",
    "pounds": "lb", "kg": "kg", "gallon": "gallon", "gallons": "gallon", "quart": "quart",
    "quarts": "quart", "gb": "gb", "tb": "tb", "watt": "w", "watts": "w",
}  # fmt: skip
_ALIKE = {"babies": "baby", "man": "men", "woman": "women", "wooden": "wood"}
_WORD = re.compile(r"\w+(?:['\u2019]s\b)?")
_MEASURED = re.compile(rf"(?<![\w.])(\d+(?:\.\d+)?)[\s-]?({'|'.join(UNITS)})(?!\w)")
_SIZED = re.compile(
    r"\b(?:(?:x{1,3}|extra)[\s-]?(?:large|small)|x{1,3}[ls]|small|medium|large|plus[\s-]size)\b"
)


def colors_of(text: str) -> frozenset[str]:
    """Return the colors that a text names.

    >>> sorted(colors_of("Red-and-black boots, tanned"))
    ['black', 'red']
    """
    return _named(text) & COLORS


def materials_of(text: str) -> frozenset[str]:
    """Return the materials that a text names.

    >>> sorted(materials_of("Wooden spoon, stainless steel; reading glasses"))
    ['stainless', 'steel', 'wood']
    """
    return _named(text) & MATERIALS


def audiences_of(text: str) -> frozenset[str]:
    """Return whom a text names.

    >>> sorted(audiences_of("Women's boots, for a man or boys"))
    ['boy', 'men', 'women']
    """
    return _named(text) & AUDIENCES


def sizes_of(text: str) -> frozenset[str]:
    """Return the sizes that a text names, and its numbers with a unit.

    >>> sorted(sizes_of("Plus size, X-Large or medium, 12-inch, 1.5 liters, 500ml, a plus"))
    ['1.5 l', '12 inch', '500 ml', 'medium', 'plus size', 'xl']
    """
    low = text.casefold()
    measured = {f"{number} {UNITS[unit]}" for number, unit in _MEASURED.findall(low)}
    return frozenset(measured | {_size(found) for found in _SIZED.findall(low)})


ATTRIBUTES = {
    "color": colors_of,
    "size": sizes_of,
    "material": materials_of,
    "audience": audiences_of,
}


def _named(text: str) -> frozenset[str]:
    """Return a text's words in lower case, without possessive and plural s."""
    low = text.casefold()
    words = (word[:-2] if word[-2:] in ("'s", "\u2019s") else word for word in _WORD.findall(low))
    return frozenset(_ALIKE.get(word, word) for each in words for word in (each, _singular(each)))


def _singular(word: str) -> str:
    """Return a word without its plural s.

    >>> _singular("boys"), _singular("glasses"), _singular("glass")
    ('boy', 'glasse', 'glass')
    """
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _size(found: str) -> str:
    """Return a size as it is written most shortly.

    >>> _size("extra large"), _size("xx-small"), _size("plus-size"), _size("small")
    ('xl', 'xxs', 'plus size', 'small')
    """
    joined = re.sub(r"[\s-]", "", found).replace("extra", "x").replace("plus", "plus ")
    return re.sub(r"^(x+)([ls]).*", r"\1\2", joined)
