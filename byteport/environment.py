"""How settings are read from the environment, by `byteport.settings` and by whatever brings settings of its own.

A secret may be given in a file instead: `NAME_FILE=/path` stands for `NAME`.
"""

from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from environs import Env

env = Env()


def secret(name: str, default: str = "") -> str:
    """The environment's `name`, or the text of the file that `name`_FILE points to."""
    file = env.str(f"{name}_FILE", "")
    if not file:
        return env.str(name, default)
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ImproperlyConfigured(f"{name}_FILE={file} cannot be read: {error.strerror}") from error
