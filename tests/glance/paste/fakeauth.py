"""A paste filter that believes every token, in the place of keystonemiddleware.

A token is `user:project:role[,role…]`; its parts become the headers that Glance's own `context`
filter reads. Runs inside the Glance under test, so it imports nothing but the standard library.
"""

from collections.abc import Callable, Iterable
from typing import Any

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def filter_factory(
    _global_conf: dict[str, str], **_local_conf: str
) -> Callable[[Application], Application]:
    """The paste entry point."""

    def wrap(application: Application) -> Application:
        def fake_auth(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            user, project, roles = environ.get("HTTP_X_AUTH_TOKEN", "nobody::").split(":")
            environ.update(
                HTTP_X_IDENTITY_STATUS="Confirmed",
                HTTP_X_USER_ID=user,
                HTTP_X_PROJECT_ID=project,
                HTTP_X_ROLES=roles,
                HTTP_X_USER_DOMAIN_ID="default",
                HTTP_X_PROJECT_DOMAIN_ID="default",
            )
            return application(environ, start_response)

        return fake_auth

    return wrap
