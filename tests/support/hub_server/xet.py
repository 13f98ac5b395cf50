"""The upload half of the Xet protocol: xorbs (packed chunks), shards (how files are made of chunks), deduplication.

Formats: https://huggingface.co/docs/xet (xorb, shard, upload protocol). Chunk and xorb hashes are not recomputed
(blake3 is not in the standard library); every rebuilt file is checked against the sha256 its shard announces.
"""

import hashlib
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

SHARD_TAG = b"HFRepoMetaData\0"
SHARD_ID = bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")  # the rest of the 32-byte tag
FOOTER = 200  # bytes of the shard footer
HEADER = 48  # bytes of the shard header and of every record in it
END = b"\xff" * 32
WITH_VERIFICATION, WITH_METADATA = 1 << 31, 1 << 30
LZ4_MAGIC = b"\x04\x22\x4d\x18"


class XetError(ValueError):
    """A body that does not follow the format, or does not give the file it announces."""


@dataclass(frozen=True)
class Segment:
    """Chunks [start, end) of one xorb; `size` in bytes once unpacked."""

    xorb: str
    start: int
    end: int
    size: int


@dataclass(frozen=True)
class ShardFile:
    """One file of a shard and the sha256 it must have (None when the client left it out)."""

    segments: tuple[Segment, ...]
    sha256: str | None


def hash_hex(raw: bytes) -> str:
    """The printed form of a 32-byte hash: four little-endian 64-bit words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


def read_shard(shard: bytes) -> tuple[list[ShardFile], dict[str, bytes]]:
    """The files of an uploaded shard, and for each chunk hash the raw record block of the new xorb that holds it."""
    if not shard.startswith(SHARD_TAG):
        raise XetError("not a shard")
    files, at = [], HEADER
    while at + HEADER <= len(shard) and shard[at : at + 32] != END:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        at += HEADER
        segments = tuple(_segment(shard, at + HEADER * i) for i in range(count))
        at += HEADER * count * (2 if flags & WITH_VERIFICATION else 1)
        sha256 = None
        if flags & WITH_METADATA:
            sha256 = hash_hex(shard[at : at + 32])
            at += HEADER
        files.append(ShardFile(segments, sha256))
    return files, _xorb_blocks(shard, at + HEADER)


def _xorb_blocks(shard: bytes, at: int) -> dict[str, bytes]:
    """Chunk hash -> the records (xorb header, then one per chunk) of its xorb, from the section that starts at `at`."""
    blocks = {}
    while at + HEADER <= len(shard) and shard[at : at + 32] != END:
        (count,) = struct.unpack_from("<I", shard, at + 36)
        block = shard[at : at + HEADER * (count + 1)]
        for start in range(HEADER, len(block), HEADER):
            blocks[hash_hex(block[start : start + 32])] = block
        at += len(block)
    return blocks


def dedup_shard(block: bytes) -> bytes:
    """The answer to a global deduplication query: a shard without files that describes one xorb."""
    bookend = END + bytes(16)
    head = SHARD_TAG + SHARD_ID + struct.pack("<QQ", 2, FOOTER)
    body = head + bookend + block + bookend
    now = int(time.time())
    # version, offsets of the file and xorb sections, three empty lookup tables (offset, length), HMAC key, created,
    # expires, nine unused statistics, offset of this footer
    tables = (len(body), 0) * 3
    footer = struct.pack("<9Q32xQQ72xQ", 1, HEADER, 2 * HEADER, *tables, now, now + 86400, len(body))
    return body + footer


def _segment(shard: bytes, at: int) -> Segment:
    if at + HEADER > len(shard):
        raise XetError("the shard ends early")
    _, size, start, end = struct.unpack_from("<IIII", shard, at + 32)
    return Segment(hash_hex(shard[at : at + 32]), start, end, size)


def rebuild(file: ShardFile, read_xorb: Callable[[str], bytes]) -> tuple[str, bytes]:
    """A file's sha256 and content; XetError if the xorbs do not give what the shard announces."""
    content = bytearray()
    for segment in file.segments:
        chunks = read_chunks(read_xorb(segment.xorb))[segment.start : segment.end]
        piece = b"".join(_unpack(*chunk) for chunk in chunks)
        if len(piece) != segment.size:
            raise XetError(f"xorb {segment.xorb} gives {len(piece)} bytes, {segment.size} expected")
        content += piece
    sha256 = hashlib.sha256(content).hexdigest()
    if file.sha256 not in (None, sha256):
        raise XetError(f"the file has sha256 {sha256}, announced was {file.sha256}")
    return sha256, bytes(content)


def read_chunks(xorb: bytes) -> list[tuple[int, bytes, int]]:
    """The chunks of a xorb in order: (compression scheme, packed bytes, unpacked size in bytes)."""
    # Chunk header: version 0, packed size (3 bytes), scheme, unpacked size (3 bytes). A footer would start with "X".
    chunks, at = [], 0
    while at < len(xorb) and xorb[at] == 0:
        packed_size = int.from_bytes(xorb[at + 1 : at + 4], "little")
        size = int.from_bytes(xorb[at + 5 : at + 8], "little")
        if at + 8 + packed_size > len(xorb):
            raise XetError("the xorb ends early")
        chunks.append((xorb[at + 4], xorb[at + 8 : at + 8 + packed_size], size))
        at += 8 + packed_size
    return chunks


def _unpack(scheme: int, packed: bytes, size: int) -> bytes:
    if scheme not in (0, 1, 2):
        raise XetError(f"chunk compression {scheme} is unknown")
    content = packed if scheme == 0 else lz4_frame(packed)
    if len(content) != size:
        raise XetError(f"a chunk unpacks to {len(content)} bytes, {size} expected")
    return _ungroup(content) if scheme == 2 else content


def _ungroup(content: bytes) -> bytes:
    """Undo the grouping of bytes by position modulo four."""
    out, at = bytearray(len(content)), 0
    for lane in range(4):
        size = (len(content) - lane + 3) // 4
        out[lane::4] = content[at : at + size]
        at += size
    return bytes(out)


def lz4_frame(frame: bytes) -> bytes:
    """Unpack one LZ4 frame, as lz4_Frame_format.md of github.com/lz4/lz4 has it; checksums are not verified."""
    if frame[:4] != LZ4_MAGIC:
        raise XetError("not an LZ4 frame")
    flags = frame[4]
    at = 7 + (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0)
    out = bytearray()
    while size := int.from_bytes(frame[at : at + 4], "little"):
        block = frame[at + 4 : at + 4 + (size & 0x7FFFFFFF)]
        if size >> 31:
            out += block
        else:
            _lz4_block(block, out)
        at += 4 + len(block) + (4 if flags & 0x10 else 0)
    return bytes(out)


def _lz4_block(block: bytes, out: bytearray) -> None:
    at, end = 0, len(block)
    try:
        while at < end:
            token = block[at]
            count, at = _length(block, at + 1, token >> 4)
            out += block[at : at + count]
            at += count
            if at >= end:
                return  # the last sequence has literals only
            distance = block[at] | block[at + 1] << 8
            count, at = _length(block, at + 2, token & 15)
            _copy(out, distance, count + 4)
    except IndexError as error:
        raise XetError("an LZ4 block ends early") from error


def _length(block: bytes, at: int, nibble: int) -> tuple[int, int]:
    """A length that starts in a nibble and goes on in bytes of 255; returns it and the next position."""
    if nibble == 15:
        while True:
            step = block[at]
            nibble += step
            at += 1
            if step != 255:
                break
    return nibble, at


def _copy(out: bytearray, distance: int, count: int) -> None:
    if not 0 < distance <= len(out):
        raise XetError("an LZ4 match points before the start")
    start = len(out) - distance
    if distance >= count:
        out += out[start : start + count]
    else:  # the match overlaps what it produces: repeat the pattern
        pattern = bytes(out[start:])
        out += (pattern * (count // distance + 1))[:count]
