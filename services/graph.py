"""Draws what stands below a root, one line a node, as `git log --graph` does. Pure.

    * root
    ├─* a branch
    │ * what came of it
    * what came of the root otherwise

A chain goes straight down, however long it is; only branches are indented. Of several children the
one with the most below it goes straight on, where no other has as much: so an indented one has at
most half of what stands below its parent, and no line is indented deeper than log2 of the nodes,
11 levels (22 columns) for 2,000.
"""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions
from rich.text import Text

# An id has 36 characters. A terminal that has no room for them folds them itself.
_LABEL_COLUMNS_MIN = 36
# For a terminal that has none of these characters.
_ASCII = str.maketrans("├└│─", "|`|-")


class Graph:
    """A tree with a label for each node, for a terminal of any width: labels are folded, not cut.

    Each node but the root is the child of one.
    """

    def __init__(
        self, root: str, children: Mapping[str, Sequence[str]], labels: Mapping[str, Text]
    ) -> None:
        self._root = root
        self._children = children
        self._labels = labels

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """The lines, as rich asks for them."""
        for node, first, following in self._drawn():
            prefixes = iter((first.translate(_ASCII) if options.ascii_only else first,))
            rest = following.translate(_ASCII) if options.ascii_only else following
            width = max(options.max_width - len(first), _LABEL_COLUMNS_MIN)
            for line in self._labels[node].wrap(console, width):
                line.rstrip()
                whole = Text(next(prefixes, rest), no_wrap=True, overflow="ignore")
                yield whole.append_text(line)

    def _drawn(self) -> Iterator[tuple[str, str, str]]:
        """Each node, with what stands before its label and before the lines that follow it."""
        weights = self._weights()
        # A node, what stands to its left, and what leads to it there.
        waiting = [(self._root, "", "")]
        while waiting:
            node, left, elbow = waiting.pop()
            below = self._children.get(node, ())
            first = left[: len(left) - len(elbow)] + elbow
            yield node, f"{first}* ", f"{left}{'│' if below else ' '} "
            straight = _heaviest(below, weights)
            branches = [it for it in below if it != straight]
            drawn = [(it, f"{left}│ ", "├─") for it in branches]
            if straight is not None:
                drawn.append((straight, left, ""))
            elif drawn:
                drawn[-1] = (branches[-1], f"{left}  ", "└─")
            waiting += reversed(drawn)

    def _weights(self) -> Mapping[str, int]:
        """How many nodes stand at and below each."""
        nodes = [self._root]
        for node in nodes:
            nodes += self._children.get(node, ())
        weights: dict[str, int] = {}
        for node in reversed(nodes):
            weights[node] = 1 + sum(weights[it] for it in self._children.get(node, ()))
        return weights


def _heaviest(nodes: Sequence[str], weights: Mapping[str, int]) -> str | None:
    """The one that has more below it than each of the others; None where two have as much."""
    largest = max((weights[it] for it in nodes), default=0)
    found = [it for it in nodes if weights[it] == largest]
    return found[0] if len(found) == 1 else None
