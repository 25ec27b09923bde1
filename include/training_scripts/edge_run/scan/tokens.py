"""What looks encoded rather than written: long stretches of letters and digits without any pattern."""

from __future__ import annotations

import math
import re
from collections import Counter

_TOKEN = re.compile(r"[A-Za-z0-9+/=_\-!#$%&()*;<>?@^`{|}~]{16,}")
_HEX = re.compile(r"[0-9a-fA-F]+")
# A word of a language, a path or an identifier repeats its letters more than that; encoded text less than encoded bytes.
_DISORDER, _SOME_DISORDER = 0.82, 0.6
_HEX_DISORDER = 0.6


def coded_tokens(text: str) -> list[str]:
    """Return the stretches of a text, 16 characters or longer, that may be encoded."""
    return [token for token in _TOKEN.findall(text) if _may_be_coded(token)]


def is_coded(token: str) -> bool:
    """Tell whether such a stretch is encoded bytes beyond doubt."""
    disorder, kinds = _disorder(token)
    if _HEX.fullmatch(token):
        return disorder > _HEX_DISORDER and kinds > 6
    return disorder > _DISORDER


def _may_be_coded(token: str) -> bool:
    if _HEX.fullmatch(token):
        return True
    mixed = token.lower() != token and token.upper() != token and not token.isalpha()
    return mixed and _disorder(token)[0] > _SOME_DISORDER


def _disorder(token: str) -> tuple[float, int]:
    """Return a stretch's entropy as a part of the most it could have, and how many different characters it has."""
    counts = Counter(token).values()
    entropy = -sum(count / len(token) * math.log2(count / len(token)) for count in counts)
    return entropy / math.log2(min(len(token), 16 if _HEX.fullmatch(token) else 64)), len(counts)
