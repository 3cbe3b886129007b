"""Signatures of releases: Ed25519 over all bytes of RELEASE.json, in a file of 64 bytes beside it.

Other programs verify it too: `openssl pkeyutl -verify -rawin -pubin -inkey public.pem -in RELEASE.json
-sigfile RELEASE.json.sig`.
"""

from __future__ import annotations

from pathlib import Path

from kraken_pipeline.errors import InvalidRequest

MAKE_A_KEY = "openssl genpkey -algorithm ed25519 -out key.pem"


def signature_of(content: bytes, key: Path) -> bytes:
    """Return the signature of some bytes.

    Args:
        content: The bytes.
        key: A PEM file with an Ed25519 private key that is not encrypted.

    Raises:
        InvalidRequest: The file has no such key, or the library is not installed.
    """
    _require_library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        private = load_pem_private_key(_read(key), password=None)
    except TypeError:
        raise InvalidRequest(f"the private key in {key} is encrypted; name a file with a key that is not") from None
    except ValueError as error:
        raise InvalidRequest(f"{key} has no private key in PEM ({error}); make one: {MAKE_A_KEY}") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise InvalidRequest(f"the private key in {key} is not of Ed25519; make one: {MAKE_A_KEY}")
    return private.sign(content)


def is_signed(content: bytes, signature: bytes, key: Path) -> bool:
    """Return whether a signature of some bytes was made with the private key of a public key.

    Args:
        content: The bytes.
        signature: The signature.
        key: A PEM file with an Ed25519 public key.

    Raises:
        InvalidRequest: The file has no such key, or the library is not installed.
    """
    _require_library()
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        public = load_pem_public_key(_read(key))
    except ValueError as error:
        raise InvalidRequest(
            f"{key} has no public key in PEM ({error}); of a private key: openssl pkey -in key.pem -pubout"
        ) from None
    if not isinstance(public, Ed25519PublicKey):
        raise InvalidRequest(f"the public key in {key} is not of Ed25519")
    try:
        public.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _read(key: Path) -> bytes:
    try:
        return key.expanduser().read_bytes()
    except OSError as error:
        raise InvalidRequest(f"the key {key} cannot be read: {error.strerror}") from None


def _require_library() -> None:
    try:
        import cryptography  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise InvalidRequest(
            "signatures need a library that is not installed: pip install 'kraken_pipeline[sign]'"
        ) from None
