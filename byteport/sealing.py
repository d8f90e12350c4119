"""Secrets that must be read again are kept encrypted, with a key derived from BYTEPORT_SECRET_KEY."""

from base64 import urlsafe_b64encode
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from byteport.core.errors import Permanent


@lru_cache(maxsize=4)  # to derive it takes longer than to use it
def _fernet(secret_key: str) -> Fernet:
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"byteport.sealing").derive(secret_key.encode())
    return Fernet(urlsafe_b64encode(key))


def seal(secret: str) -> str:
    """Encrypts a secret for the database."""
    return _fernet(settings.SECRET_KEY).encrypt(secret.encode()).decode()


def unseal(sealed: str) -> str:
    """Decrypts it. Raises Permanent when the key is not the one that it was sealed with."""
    return _unsealed(settings.SECRET_KEY, sealed)


@lru_cache(maxsize=256)  # each call of a webhook asks for its source's secret
def _unsealed(secret_key: str, sealed: str) -> str:
    try:
        return _fernet(secret_key).decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise Permanent("A stored secret cannot be read: BYTEPORT_SECRET_KEY has changed. Set it anew.") from error
