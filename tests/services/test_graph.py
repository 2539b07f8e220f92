"""What is drawn below a root is the tree, whatever its form and the terminal's width."""

import io
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from metaledger.services.graph import Graph

# Each node's parent is one that was there before it.
TREES = st.integers(1, 60).flatmap(
    lambda size: st.tuples(*(st.integers(0, node) for node in range(size)))
)
COMB = tuple(parent for node in range(0, 2000, 2) for parent in (node, node))


def drawn(parents, *, label="{:036}", columns=80, encoding="utf-8"):
    """The lines of a tree, of which node 0 is the root and node n+1 the child of parents[n]."""
    names = [label.format(node) for node in range(len(parents) + 1)]
    children = {}
    for node, parent in enumerate(parents, 1):
        children.setdefault(names[parent], []).append(names[node])
    target = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(file=target, width=columns)
    console.print(Graph(names[0], children, {name: Text(name) for name in names}), crop=False)
    target.seek(0)
    return target.read().splitlines()


def read_back(lines):
    """The parents, as somebody reads them who has learnt how it is drawn."""
    parents, lane = {}, {}
    for line in lines:
        column = line.index("*")
        is_branch = line[column - 2 : column] in {"├─", "└─"}
        node = int(line[column + 2 :])
        parents[node] = lane.get(column - 2 if is_branch else column)
        lane[column] = node
    return parents


@given(TREES)
def test_a_drawing_tells_the_whole_tree(parents):
    assert read_back(drawn(parents)) == {0: None} | dict(enumerate(parents, 1))


@pytest.mark.parametrize(
    "parents",
    [tuple(range(1999)), COMB, (0,) * 1999, tuple(node // 2 for node in range(1999))],
    ids=["chain", "comb", "star", "binary"],
)
def test_two_thousand_nodes_fit_into_eighty_columns(parents):
    lines = drawn(parents)
    assert len(lines) == len(parents) + 1
    assert max(map(len, lines)) <= 2 * (int(log2(len(lines))) + 1) + 36 <= 80


def test_a_chain_goes_straight_down_and_a_branch_beside_it():
    assert drawn((0, 1, 1, 3, 4), label="{}") == [
        "* 0",
        "* 1",
        "├─* 2",
        "* 3",
        "* 4",
        "* 5",
    ]
    assert drawn((0, 1, 0, 3, 4, 3), label="{}") == [
        "* 0",
        "├─* 1",
        "│ * 2",
        "* 3",
        "├─* 6",
        "* 4",
        "* 5",
    ]
    assert drawn((0, 0), label="{}") == ["* 0", "├─* 1", "└─* 2"]


def test_a_label_that_is_too_long_goes_on_below_itself():
    lines = drawn((0, 0), label="{} one two three four five six seven eight nine ten", columns=40)
    assert lines == [
        "* 0 one two three four five six seven",
        "│ eight nine ten",
        "├─* 1 one two three four five six seven",
        "│   eight nine ten",
        "└─* 2 one two three four five six seven",
        "    eight nine ten",
    ]


def test_a_terminal_that_is_too_narrow_is_shown_all_of_it():
    assert all(f"{node:036}" in line for node, line in enumerate(drawn((0, 1), columns=8)))


def test_a_terminal_without_box_characters_has_others():
    assert drawn((0, 1, 0), label="{}", encoding="ascii") == ["* 0", "|-* 3", "* 1", "* 2"]
