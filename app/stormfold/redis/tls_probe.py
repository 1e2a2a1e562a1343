"""Finds out whether a server uses TLS, after a connection failed: neither side reports the mismatch itself."""

import asyncio
import ssl

from stormfold.redis.errors import TlsMismatch

SECONDS = 1.0
"""Longest wait for an answer."""


async def check_tls(host: str, port: int, tls: bool) -> None:
    """Raises `TlsMismatch` if the server answers with TLS and the client has none, or the reverse."""
    if await (_answers(host, port) if tls else _greets_with_tls(host, port)):
        raise TlsMismatch(f"{host}:{port}", server_uses_tls=not tls)


async def _answers(host: str, port: int) -> bool:
    """Whether it answers a command without TLS."""
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"PING\r\n")
                return await reader.read(1) in (b"+", b"-")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


async def _greets_with_tls(host: str, port: int) -> bool:
    """Whether it completes a TLS handshake, or asks for a certificate. Nothing is sent, so nothing is verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.close()
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except (OSError, TimeoutError):
        return False
