"""How a daemon finds out whom it talks to: an RSA signature over twenty random bytes."""

from __future__ import annotations

import base64
import binascii
import struct

from tests.phone.legacy_wire import ProtocolError

TOKEN_BYTES = 20
MODULUS_BYTES = 256
# Words in the modulus, -1 / n mod 2^32, the modulus n, R^2 mod n for R = 2^2048, the exponent.
ANDROID_KEY = struct.Struct(f"<II{MODULUS_BYTES}s{MODULUS_BYTES}sI")
# What PKCS #1 v1.5 puts before a SHA-1 digest; the token is signed as if it were one.
SHA1_PREFIX = bytes.fromhex("3021300906052b0e03021a05000414")


def read_public_key(text: bytes) -> tuple[int, int]:
    """Modulus and exponent of a key as it stands in `adbkey.pub`: base64, and then perhaps a name.

    Raises:
        ProtocolError: it is no such key, or its precomputed numbers are wrong.
    """
    try:
        raw = base64.b64decode(text.rstrip(b"\0").split(maxsplit=1)[0], validate=True)
        words, inverse, modulus_bytes, square_bytes, exponent = ANDROID_KEY.unpack(raw)
    except (IndexError, binascii.Error, struct.error) as error:
        raise ProtocolError(f"no public key: {text[:40]!r} ({error})") from None
    modulus = int.from_bytes(modulus_bytes, "little")
    if words != MODULUS_BYTES // 4 or (modulus * inverse + 1) % (1 << 32):
        raise ProtocolError("public key: the length or the inverse is wrong")
    if int.from_bytes(square_bytes, "little") != pow(2, 2 * 8 * MODULUS_BYTES, modulus):
        raise ProtocolError("public key: R squared is wrong")
    return modulus, exponent


def signed_by(key: tuple[int, int], token: bytes, signature: bytes) -> bool:
    """Whether `signature` is that key's over `token`."""
    modulus, exponent = key
    tail = b"\0" + SHA1_PREFIX + token
    padded = b"\0\1" + b"\xff" * (MODULUS_BYTES - 2 - len(tail)) + tail
    return pow(int.from_bytes(signature, "big"), exponent, modulus) == int.from_bytes(padded, "big")
