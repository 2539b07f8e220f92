"""The contract: events on the wire, tables at rest, the log's interface. Imports no other part."""
