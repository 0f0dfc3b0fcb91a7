"""The keys as they are set now: the file is read again when it changed, so that a key can be withdrawn at once."""

import os
from pathlib import Path

from dify_adapter.keys import EVERYBODY, Key, find_key, read_keys
from handoff.log import get as _log
from handoff.settings import AdapterSettings, SettingsError, name_of

_Signature = tuple[int, ...]


class Keyring:
    """Raises SettingsError where a key cannot be used."""

    def __init__(self, settings: AdapterSettings) -> None:
        self._written = settings.api_keys
        self._path: Path | None = settings.api_keys_file
        self._signature: _Signature | None = None
        self._keys: list[Key] = []
        self._load()

    @property
    def keys(self) -> list[Key]:
        """A file that cannot be used any more changes nothing, and is told in the log."""
        if self._path is not None and _sign(self._path) != self._signature:
            try:
                self._load()
            except SettingsError as error:
                self._signature = _sign(self._path)
                _log().error("keys_unusable", error=str(error), hint="the keys from before stay in use")
            else:
                _log().info("keys_read", names=[key.name for key in self._keys])
        return self._keys

    @property
    def is_open(self) -> bool:
        """No keys are set up at all."""
        return not self._written and self._path is None

    def find(self, presented: str | None) -> Key | None:
        """Whose key it is; None for a wrong one, or none where one is needed."""
        if self.is_open:
            return EVERYBODY
        return None if presented is None else find_key(self.keys, presented)

    def _load(self) -> None:
        lines: list[str] = []
        if self._path is not None:
            self._signature = _sign(self._path)
            try:
                lines = self._path.read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"{name_of('api_keys_file')}: {self._path} cannot be read: {error}") from None
        texts = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
        try:
            self._keys = read_keys([*self._written, *texts])
        except ValueError as error:
            raise SettingsError(f"{name_of('api_keys')}: {error}") from None
        if not self._keys and not self.is_open:
            raise SettingsError(f"{name_of('api_keys_file')}: {self._path} holds no key; `handoff keys new` makes one")


def _sign(path: Path) -> _Signature | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
