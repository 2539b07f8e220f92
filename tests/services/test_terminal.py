import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaledger.services.output import Output, json_text
from metaledger.services.terminal import VALUE_CHARS_MAX, age, cell, harmless, table

HOSTILE = ["\x1b[2J", "\x9b31m", "\u202eevil", "\u2066x", "a\rb", "a\nb", "\0", "\ud800", "\x7f"]


def shown(*parts):
    target = io.StringIO()
    Output(as_json=False, stdout=target).say(*parts)
    return target.getvalue()


@given(st.text())
def test_whatever_is_shown_is_printable(text):
    assert harmless(text).isprintable()


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_what_is_printable_is_shown_as_it_is(text):
    assert harmless(text) == text


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_value_drives_the_terminal_from_a_table(text):
    lines = shown(table((f"key{text}",), [[text]])).splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_markup_in_a_value_is_text():
    assert "[red]x[/red] :smile: [link=file:///etc]" in shown(
        table(("key",), [["[red]x[/red] :smile: [link=file:///etc]"]])
    )
    assert shown("[bold]x[/bold]") == "[bold]x[/bold]\n"


def test_a_value_that_is_cut_says_how_long_it_is():
    text = cell("x" * (VALUE_CHARS_MAX + 1)).plain
    assert text.endswith(f"… ({VALUE_CHARS_MAX + 1:,} characters; --json shows all)")
    assert cell("x" * VALUE_CHARS_MAX).plain == "x" * VALUE_CHARS_MAX


def test_bytes_are_shown_as_such_whatever_a_driver_calls_them():
    assert cell(b"\x00\xff").plain == cell(memoryview(b"\x00\xff")).plain == "00 ff"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_json_is_exact_and_drives_no_terminal(document):
    text = json_text(document)
    assert json.loads(text) == document
    assert text.isascii()
    assert text.isprintable()


def test_json_has_no_numbers_that_json_does_not_know():
    assert json.loads(json_text({"a": [float("nan"), float("inf")]})) == {"a": ["nan", "inf"]}


@pytest.mark.parametrize(
    ("documents", "lines", "text"),
    [([], False, "[]\n"), ([], True, ""), ([1, 2], False, "[\n1,\n2\n]\n"), ([1], True, "1\n")],
)
def test_a_stream_is_one_document_or_one_a_line(documents, lines, text):
    target = io.StringIO()
    Output(as_json=True, stdout=target).stream(documents, str, lines=lines)
    assert target.getvalue() == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_ages_are_for_people(seconds, text):
    assert age(seconds) == text
