"""Acts on a module of the service when the service loads it, and loads none itself.

A driver of notifications is loaded while the configuration is parsed, long before the modules that
its hooks wrap: to import them then would change the order in which the service imports its own.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import structlog

from metaledger.producers.guard import beside, described

Action = Callable[[ModuleType], None]
_log = structlog.get_logger("metaledger.producers")


def when_loaded(name: str, action: Action) -> None:
    """Calls `action` with the module when it was loaded, at once if it is; once a name and action.

    An error of the action is logged, and the module is there all the same.
    """
    if name in sys.modules:
        _act(action, sys.modules[name])
        return
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    waiting = _FINDER.waiting.setdefault(name, [])
    if action not in waiting:
        waiting.append(action)


class _Finder(MetaPathFinder):
    """Finds nothing itself: what another one finds acts after it was executed."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Action]] = {}

    # typing.override asks for Python 3.12.
    def find_spec(  # type: ignore[explicit-override]
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The others' answer, for a module that is waited for."""
        if fullname not in self.waiting:
            return None
        for finder in sys.meta_path:
            # Python skips those without it too, which are of an older kind.
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(fullname, path, target)
            if spec is not None and spec.loader is not None:
                loader, execute = spec.loader, spec.loader.exec_module
                loader.exec_module = functools.partial(  # type: ignore[method-assign]
                    self._executed, execute
                )
                return spec
        return None

    def _executed(self, execute: Action, module: ModuleType) -> None:
        execute(module)
        # A loader may load others too.
        for action in self.waiting.pop(module.__name__, ()):
            _act(action, module)


def _act(action: Action, module: ModuleType) -> None:
    with beside(lambda error: _log.error("hook not installed", error=described(error))):
        action(module)


_FINDER = _Finder()
