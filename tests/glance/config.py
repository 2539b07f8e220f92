"""The configuration files of the Glance under test: the recipe of a minimal, real service.

Nothing but the database's URL, extra text and extra paste filters differs from one test to another.
"""

from dataclasses import dataclass
from pathlib import Path

API_CONF = """\
[DEFAULT]
enabled_backends = store1:file, store2:file
enabled_import_methods = [glance-direct]
node_staging_uri = file://{folder}/staging
worker_self_reference_url = {url}
bind_host = 127.0.0.1
debug = {debug}
{default_options}
show_multiple_locations = true
[database]
connection = {database_url}
{database_options}
[glance_store]
default_backend = store1
[store1]
filesystem_store_datadir = {folder}/store1
[store2]
filesystem_store_datadir = {folder}/store2
[os_glance_staging_store]
filesystem_store_datadir = {folder}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {folder}/tasks
[paste_deploy]
flavor = test
config_file = {folder}/glance-api-paste.ini
[oslo_policy]
enforce_scope = false
[oslo_messaging_notifications]
transport_url = fake://
[oslo_concurrency]
lock_path = {folder}/locks
"""

PASTE_INI = """\
[composite:glance-api-test]
paste.composite_factory = glance.api:root_app_factory
/: api
/healthcheck: healthcheck
[pipeline:api]
pipeline = cors http_proxy_to_wsgi versionnegotiation osprofiler fakeauth context {names} rootapp
[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/: apiversions
/v2: apiv2app
[app:apiversions]
paste.app_factory = glance.api.versions:create_resource
[app:apiv2app]
paste.app_factory = glance.api.v2.router:API.factory
[app:healthcheck]
paste.app_factory = oslo_middleware:Healthcheck.app_factory
[filter:versionnegotiation]
paste.filter_factory = glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
[filter:osprofiler]
paste.filter_factory = osprofiler.web:WsgiMiddleware.factory
[filter:cors]
paste.filter_factory = oslo_middleware.cors:filter_factory
oslo_config_project = glance
[filter:http_proxy_to_wsgi]
paste.filter_factory = oslo_middleware:HTTPProxyToWSGI.factory
[filter:fakeauth]
paste.filter_factory = fakeauth:filter_factory
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """What one test adds to the stock configuration, as an operator would write it.

    `default_options` and `database_options` are lines of those sections, `text` any further ones;
    `filters` maps a
    name to a paste factory, placed just before the application.
    """

    default_options: str = ""
    database_options: str = ""
    text: str = ""
    filters: tuple[tuple[str, str], ...] = ()
    debug: bool = False


def write(folder: Path, *, url: str, database_url: str, extra: Extra) -> Path:
    """Writes all files under folder; returns the path of glance-api.conf."""
    for name in ("store1", "store2", "staging", "tasks", "locks"):
        (folder / name).mkdir(exist_ok=True)
    conf = folder / "glance-api.conf"
    values = {"folder": folder, "url": url, "database_url": database_url.replace("%", "%%")}
    conf.write_text(
        API_CONF.format(
            **values,
            default_options=extra.default_options,
            database_options=extra.database_options,
            debug=str(extra.debug).lower(),
        )
        + extra.text
    )
    names = " ".join(name for name, _ in extra.filters)
    sections = "".join(
        f"[filter:{name}]\npaste.filter_factory = {factory}\n" for name, factory in extra.filters
    )
    (folder / "glance-api-paste.ini").write_text(PASTE_INI.format(names=names) + sections)
    return conf
