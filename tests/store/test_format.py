"""FORMAT stands for what a generation is made of: whoever changes that has to raise it.

What counts are tables, their keys and indexes, views, and the fields of folds' states; comments are
words about them. A fold that makes another thing of the same events raises FORMAT too, and no
digest tells.
"""

import hashlib
import json
from typing import Any

from msgspec import inspect
from sqlalchemy import Index, Table
from sqlalchemy.dialects import postgresql, sqlite

from metaledger.projector.folds import PROJECTIONS
from metaledger.projector.readmodel import FORMAT
from metaledger.schemas.tables import PRIVATE, TABLES, VIEWS, View

# FORMAT, and the digest of what it stands for.
PINNED = (8, "8fdf30f203ea97e7")
DIALECTS = (postgresql.dialect(), sqlite.dialect())


def table_form(table: Table) -> list[Any]:
    columns = [
        [
            column.name,
            [column.type.compile(dialect=dialect) for dialect in DIALECTS],
            column.nullable,
            str(getattr(column.server_default, "arg", None)),
        ]
        for column in table.columns
    ]
    others = [
        [type(one).__name__, *(column.name for column in getattr(one, "columns", ()))]
        for one in table.constraints
    ]
    indexes = [index_form(index) for index in table.indexes]
    return [
        [table.name, table.name in PRIVATE, sorted(table.info.items())],
        [column.name for column in table.primary_key],
        *(columns, sorted(others), sorted(indexes)),
    ]


def index_form(index: Index) -> list[Any]:
    named = [getattr(one, "name", None) or str(one) for one in index.expressions]
    options = sorted([name, str(value)] for name, value in index.dialect_kwargs.items())
    return [str(index.name), index.unique, named, options]


def view_form(view: View) -> list[Any]:
    body = str(view.select.compile(compile_kwargs={"literal_binds": True}))
    return [view.name, list(view.columns), " ".join(body.split())]


def state_form(said: Any) -> Any:
    """What msgspec says of a type, with the names of fields and without their defaults."""
    match said:
        case inspect.StructType():
            fields = [[one.name, one.required, state_form(one.type)] for one in said.fields]
            return [said.cls.__name__, said.array_like, fields]
        case inspect.Type():
            values = [getattr(said, name) for name in said.__struct_fields__]
            told = [state_form(value) for value in values if value is not None]
            return [type(said).__name__, *told]
        case tuple():
            return [state_form(one) for one in said]
        case _:
            return str(getattr(said, "__name__", said))


def digest() -> str:
    form = [
        [table_form(table) for table in sorted(TABLES, key=lambda table: table.name)],
        [view_form(view) for view in sorted(VIEWS, key=lambda view: view.name)],
        [
            [one.aggregate_kind, state_form(inspect.type_info(one.state_type))]
            for one in PROJECTIONS
        ],
    ]
    return hashlib.sha256(json.dumps(form).encode()).hexdigest()[:16]


def test_what_a_generation_is_made_of_changes_with_its_format_alone() -> None:
    pinned, found = PINNED[0], digest()
    due = FORMAT if pinned != FORMAT else FORMAT + 1
    assert (FORMAT, found) == PINNED, (
        f"a generation's tables, views or states are not those of format {pinned}: FORMAT in "
        f"projector/readmodel.py has to be {due}, and PINNED here ({due}, {found!r})"
    )
