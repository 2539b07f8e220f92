"""A paste filter that profiles each request and keeps the sum in `profile.prof` where Glance runs.

For one request at a time: `cProfile` sees one thread. Runs inside the Glance under test.
"""

import cProfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

# The first requests load modules and compile statements.
WARM_UP = 60


def filter_factory(
    _global_conf: dict[str, str], **_local_conf: str
) -> Callable[[Application], Application]:
    """The paste entry point."""
    profile, target = cProfile.Profile(), Path.cwd() / "profile.prof"
    served = 0

    def wrap(application: Application) -> Application:
        def profiled(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            nonlocal served
            served += 1
            if served <= WARM_UP:
                return application(environ, start_response)
            try:
                return profile.runcall(application, environ, start_response)
            finally:
                profile.dump_stats(target)

        return profiled

    return wrap
