"""Texts to measure encoders with: generated, seeded, of varied length and script."""

import random

_COLORS = (
    "black", "ivory", "navy", "emerald", "rust", "lilac", "charcoal", "beige", "coral", "teal",
)  # fmt: skip
_STYLES = (
    "slim", "oversized", "vintage", "pleated", "quilted", "waterproof", "cropped", "ribbed",
    "minimalist", "padded",
)  # fmt: skip
_THINGS = (
    "dress", "rain boots", "leather wallet", "hoop earrings", "running shoes", "denim jacket",
    "crossbody bag", "wool scarf", "swimsuit", "wrist watch", "yoga pants", "cordless drill",
    "desk lamp", "ceiling fan", "water filter", "garden hose", "phone case", "coffee grinder",
)  # fmt: skip
_FOR = (
    "women", "men", "girls", "boys", "toddlers", "teens", "travel", "office", "winter", "hiking",
)  # fmt: skip
_REMARKS = (
    "It runs a little small, so order one size up.",
    "The stitching came loose after two washes.",
    "My sister wore it to a beach wedding and got so many compliments!",
    "Soft against the skin and it does not fade.",
    "Great value for the price; shipping took nine days.",
    "The strap is adjustable from 22 to 41 inches.",
    "Fits 1/2 in. to 3/4 in. pipes, rated for 150 psi.",
    "Would not buy again, the zipper sticks.",
    "Keeps my feet dry on muddy trails.",
    "Looks exactly like the photo, maybe a shade darker.",
)
_OTHERS = (
    "a", "42", "???", "SKU-88213-B", "20V max 2-speed", "chaussures d'été pour femme",
    "zapatillas rojas talla 38", "Größe 42 Wanderschuhe wasserdicht", "красное платье в горошек",
    "赤いワンピース", "真皮钱包 男", "여성 겨울 코트", "فستان أحمر طويل", "नीली साड़ी",
    "gift 🎁 for mom ❤️",
    "iphone12 pro max case clear", "NOT polyester", "x" * 60,
)  # fmt: skip

_MAKERS_PER_ROUND = 4


def generate_texts(count: int, seed: int) -> list[str]:
    """Return texts that shoppers and shops write: queries, titles, reviews, long descriptions.

    >>> texts = generate_texts(40, seed=1)
    >>> len(texts), len(set(texts)), texts == generate_texts(40, seed=1)
    (40, 40, True)
    """
    rng = random.Random(seed)  # noqa: S311 - sampling, not secrecy
    texts = list(dict.fromkeys(rng.sample(_OTHERS, min(len(_OTHERS), count // 4))))
    seen = set(texts)
    while len(texts) < count:
        text = _one_text(rng, len(texts) % _MAKERS_PER_ROUND)
        if text not in seen:
            seen.add(text)
            texts.append(text)
    return texts


def long_text(num_words: int) -> str:
    """Return a text of so many words, which differ from one stretch to the next.

    >>> len(long_text(5000).split())
    5000
    """
    rng = random.Random(19)  # noqa: S311 - sampling, not secrecy
    words: list[str] = []
    while len(words) < num_words:
        words += _one_text(rng, 3).split()
    return " ".join(words[:num_words])


def short_queries(count: int, seed: int) -> list[str]:
    """Return queries of about 4 to 10 tokens."""
    rng = random.Random(seed)  # noqa: S311 - sampling, not secrecy
    return [_query(rng) for _ in range(count)]


def _one_text(rng: random.Random, kind: int) -> str:
    if kind == 0:
        return _query(rng)
    if kind == 1:
        return _title(rng)
    if kind == 2:
        return " ".join(rng.sample(_REMARKS, rng.randint(1, 3)))
    return f"{_title(rng)}. " + " ".join(rng.choices(_REMARKS, k=rng.randint(4, 14)))


def _query(rng: random.Random) -> str:
    words = [rng.choice(_COLORS), rng.choice(_STYLES), rng.choice(_THINGS)]
    tail = f" for {rng.choice(_FOR)}" if rng.random() < 0.4 else ""
    return " ".join(words[rng.randint(0, 1) :]) + tail


def _title(rng: random.Random) -> str:
    styles = " ".join(rng.sample(_STYLES, 2)).title()
    thing = rng.choice(_THINGS).title()
    return f"{styles} {thing} for {rng.choice(_FOR).title()}, {rng.choice(_COLORS).title()}"
