"""Any value that a field of the contract may have, for hypothesis."""

from datetime import UTC

from hypothesis import strategies as st

# Any Unicode that can be stored: no NUL, no lone surrogate.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
names = texts.filter(bool)
longs = st.integers(-(2**63), 2**63 - 1)
times = st.datetimes(timezones=st.just(UTC))
maybe_text = st.none() | texts
maybe_long = st.none() | longs
lists = st.lists(texts, max_size=3).map(tuple)
maps = st.dictionaries(texts, maybe_text, max_size=4)
