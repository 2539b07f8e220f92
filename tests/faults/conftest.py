"""The command line as a user has it, for what goes wrong around it."""

from ..services.conftest import home, metaledger, start  # noqa: F401 (fixtures)
