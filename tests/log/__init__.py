"""The log's conformance suite, and what each backend promises beyond it.

A third backend is added by a class in `backends` and its line in `conftest`.
"""
