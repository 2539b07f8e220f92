"""A hooked service's own configuration, as oslo.config has it: the files of its `--config-file`, of
which a later one overrides an earlier one.
"""

from collections.abc import Mapping, Sequence
from configparser import Error as ConfigError
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

from metaledger.schemas.errors import UsageError


class ServiceConf:
    """What the files say together. Names may come again, and have no values."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Reads the files. Raises UsageError."""
        self.name = " with ".join(map(str, files))
        self._last = _read(files, dict)
        self._all = _read(files, _EveryValue)

    def get(self, section: str, name: str) -> str:
        """The option's last value; empty where it has none."""
        return self._last.get(section, name, fallback="") or ""

    def every(self, section: str, name: str) -> Sequence[str]:
        """All values of an option that may have several."""
        return (self._all.get(section, name, fallback="") or "").split()

    def section(self, name: str) -> Mapping[str, str | None]:
        """All options of a section, with their last values."""
        return dict(self._last.items(name)) if self._last.has_section(name) else {}


class _EveryValue(dict[str, Any]):
    """A section in which an option that comes again adds a value, for ConfigParser."""

    # typing.override asks for Python 3.12.
    def __setitem__(self, name: str, value: Any) -> None:  # type: ignore[explicit-override] # noqa: ANN401
        held = self.get(name)
        if isinstance(value, list) and held is not None:
            # What an earlier file said is one text already.
            value = [*(held if isinstance(held, list) else [held]), *value]
        super().__setitem__(name, value)


def _read(files: Sequence[Path], section: type[dict[str, Any]]) -> RawConfigParser:
    parser = RawConfigParser(
        strict=False, allow_no_value=True, default_section="\0", dict_type=section
    )
    for conf in files:
        try:
            with conf.open(encoding="utf-8") as file:
                parser.read_file(file)
        except (OSError, UnicodeDecodeError, ConfigError) as error:
            # The system's own text names the file once more.
            why = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise UsageError(f"{conf} cannot be read: {why}") from error
    return parser
