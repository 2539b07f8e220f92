"""A hook acts when the service loads what it wraps, loads nothing itself, and fails no import."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaledger.producers.nova_compute.arrival import when_loaded

NAME = "module_of_a_service"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / f"{NAME}.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield NAME
    sys.modules.pop(NAME, None)


def test_a_module_is_acted_on_when_it_was_executed(module: str) -> None:
    seen = []
    when_loaded(module, lambda loaded: seen.append(loaded.VALUE))
    assert (seen, module in sys.modules) == ([], False)
    importlib.import_module(module)
    assert seen == [1]


def test_a_module_that_is_there_is_acted_on_at_once(module: str) -> None:
    importlib.import_module(module)
    seen: list[object] = []
    when_loaded(module, seen.append)
    assert seen == [sys.modules[module]]


def test_an_action_acts_once(module: str) -> None:
    seen: list[object] = []
    action = seen.append
    when_loaded(module, action)
    when_loaded(module, action)
    importlib.import_module(module)
    assert len(seen) == 1


def test_an_error_of_ours_fails_no_import(module: str) -> None:
    seen: list[object] = []
    when_loaded(module, lambda loaded: loaded.nope)
    when_loaded(module, seen.append)
    assert importlib.import_module(module).VALUE == 1
    assert len(seen) == 1


def test_a_module_that_is_not_there_stays_so() -> None:
    when_loaded("module_that_nobody_has", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="module_that_nobody_has"):
        importlib.import_module("module_that_nobody_has")


def test_a_finder_of_an_old_kind_ends_no_import(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    when_loaded(module, seen.append)
    # Python itself skips one that has no `find_spec`.
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path[:1], object(), *sys.meta_path[1:]])
    assert importlib.import_module(module).VALUE == 1
    assert len(seen) == 1
