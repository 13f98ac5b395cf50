"""Texts packed for a page: words as numbers, then deflate, then printable characters.

Deflate alone looks back 32 KiB, so that it learns the words of a long text anew in every block. A vocabulary of the
page, in which a frequent word takes one or two bytes, makes it a fifth to a quarter smaller (measured on words drawn by
Zipf's law and on documentation), and 85 characters for each 4 bytes in place of 64 for each 3 take 6 % off once more.
`page.js` undoes all three with the browser's own DecompressionStream.

    text ─ words ─▶ codes ─ raw deflate (RFC 1951) ─▶ bytes ─ base 85 ─▶ characters without < & >
"""

import base64
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate

WORDS = re.compile(
    r"\\u[0-9a-f]{4}|\\."  # an escape of JSON
    r"|[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]"  # scripts without blanks between words, by character
    r"| ?[^\W_\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]+"  # a word with the blank before it
    r"|[\W_]"
)
"""What a text is cut into: all of it, in order."""
ONE, TWO, THREE = 160, 79, 16
"""First bytes of codes of one, two and three bytes; page.js has the same numbers."""
LITERAL = 255
"""First byte of a word that is not in the vocabulary; its length in UTF-8 and its bytes follow."""
MOST = 60_000
"""Words of a vocabulary at most."""
SEVERAL = 3
"""Times that a word of the vocabulary occurs at least: it stands in the page once more."""
LONGEST = 32
"""Characters of such a word at most; what is longer, such as a digest, hardly comes again."""
LEVEL = 9
_SAFE = bytes.maketrans(b"&<>", b".,/")


def vocabulary_of(texts: Iterable[str], room: int) -> list[str]:
    """Return the words that occur several times, the most frequent first, those of equal frequency in order.

    Args:
        texts: what they are counted in.
        room: characters that the vocabulary may have.
    """
    counted: Counter[str] = Counter()
    for text in texts:
        counted.update(WORDS.findall(text))
    several = sorted((-n, word) for word, n in counted.items() if n >= SEVERAL and len(word) <= LONGEST)[:MOST]
    sizes = accumulate(len(word) + 1 for _, word in several)
    return [word for (_, word), size in zip(several, sizes, strict=True) if size <= room]


def codes_of(vocabulary: Sequence[str]) -> dict[str, bytes]:
    """Return the code of each word: one to three bytes, shorter for those that stand first."""
    codes = {}
    for place, word in enumerate(vocabulary):
        if place < ONE:
            codes[word] = bytes((place,))
        elif (rest := place - ONE) < TWO * 256:
            codes[word] = bytes((ONE + rest // 256, rest % 256))
        else:
            rest -= TWO * 256
            codes[word] = bytes((ONE + TWO + rest // 65536, rest // 256 % 256, rest % 256))
    return codes


def encode(text: str, codes: dict[str, bytes]) -> bytes:
    """Return a text as codes of words."""
    return b"".join([codes.get(word) or _literal(word) for word in WORDS.findall(text)])


def _literal(word: str) -> bytes:
    """Return a word that has no code, in pieces of at most 63 characters, which are 252 bytes at most."""
    pieces = (word[start : start + 63].encode() for start in range(0, len(word), 63))
    return b"".join(bytes((LITERAL, len(piece))) + piece for piece in pieces)


def deflate(data: bytes) -> bytes:
    """Return bytes compressed, without a header."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
    return packer.compress(data) + packer.flush()


def characters(data: bytes) -> bytes:
    """Return bytes as printable ASCII characters that HTML and JavaScript read as text: base 85 without < & >."""
    return base64.b85encode(data).translate(_SAFE)
