"""Request bodies: read and decompressed within their limits."""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import Request

from ..errors import HTTPError

WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # wbits of zlib.decompressobj


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """At most `most` bytes, before and after decompression. HTTPError 413 as soon as there are more, 408 when they are
    too slow, 415 for a Content-Encoding other than gzip or deflate.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise HTTPError(413, f"a request is at most {most} bytes")
    coding = request.headers.get("content-encoding", "identity").lower()
    if coding != "identity" and coding not in WINDOWS:
        raise HTTPError(415, "Content-Encoding: gzip, deflate or none")
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise HTTPError(413, f"a request is at most {most} bytes")
                parts.append(part)
    except TimeoutError:
        raise HTTPError(408, "the request did not arrive before its deadline") from None
    body = b"".join(parts)
    return body if coding == "identity" else _unpack(body, coding, most)


def _unpack(body: bytes, coding: str, most: int) -> bytes:
    unpacker = zlib.decompressobj(WINDOWS[coding])
    try:
        whole = unpacker.decompress(body, most + 1)
    except zlib.error:
        raise HTTPError(400, f"the body is not {coding}") from None
    if len(whole) > most:
        raise HTTPError(413, f"a request is at most {most} bytes, unpacked")
    if not unpacker.eof or unpacker.unused_data:
        raise HTTPError(400, f"the body is not whole {coding}")
    return whole
