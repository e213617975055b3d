"""Where the next page starts, tied to the generation and the search that it belongs to."""

import base64
import binascii
import struct

from rpc.errors import FailedPrecondition, InvalidArgument

_LAYOUT = struct.Struct("<BQQH")
_VERSION = 1


def write_page_token(generation: int, fingerprint: int, offset: int) -> str:
    """Return the token of the page that starts at `offset`, 0-based.

    Args:
        generation: the generation that the pages come from.
        fingerprint: 64-bit hash of the search without its token.
        offset: results on the pages before, up to 1,000.
    """
    packed = _LAYOUT.pack(_VERSION, generation, fingerprint, offset)
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def read_page_token(token: str, generation: int, fingerprint: int) -> int:
    """Return the offset in a token; 0 for an empty one.

    Raises:
        InvalidArgument: not a token of ours, or one of another search.
        FailedPrecondition: a token of another generation.

    >>> read_page_token(write_page_token(3, 77, 20), generation=3, fingerprint=77)
    20
    """
    if not token:
        return 0
    allowed = "next_page_token of an earlier answer to the same request"
    try:
        packed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        version, of_generation, of_search, offset = _LAYOUT.unpack(packed)
    except (binascii.Error, struct.error, ValueError) as exc:
        raise InvalidArgument("page_token", token, allowed) from exc
    if version != _VERSION or of_search != fingerprint:
        raise InvalidArgument("page_token", token, allowed)
    if of_generation != generation:
        raise FailedPrecondition(
            "PAGE_TOKEN_OF_ANOTHER_GENERATION",
            "the page token belongs to another generation; start again from the first page",
            expected=generation,
            got=of_generation,
        )
    return int(offset)
