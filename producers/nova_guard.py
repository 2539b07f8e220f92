"""Lets nova-compute destroy only what the destroy guard allows, where `[metaledger] guard` is set.

When nova-compute starts, `ComputeManager._destroy_evacuated_instances` (`nova/compute/manager.py`)
destroys what it holds of instances that migration records of its own host name say were evacuated.
A host name is no identity, so the ledger is asked first. The method stays as it is; for the time of
its call it sees less. What is assumed of it (Nova 34):

- Its parameters are (self, context, node_cache), and the latter maps the uuids of the compute nodes
  to them: these are the hypervisors' ids.
- It asks `objects.MigrationList.get_by_filters(context, filters)` first, once, for migrations of
  type evacuation. Of those, the guard judges the ones whose instances this host holds. It is asked
  as the node that the migration names as its source, or as this host's only one.
- It destroys only what `self._get_instances_on_driver(context)` then gives it. Cleaning up in
  Placement and completing a migration, it does for each migration that it was given.
- It gives the migrations by instance; `init_host` leaves those instances alone.

So migrations that are not allowed are taken out of the first answer, and everything that is not
allowed out of the second: neither is the instance destroyed, nor its allocation removed, nor the
migration completed. The guard is asked again at the next start. For `init_host` they are put back
into the result, for what Nova holds to be evacuated must not be started here either.

Where the assumptions do not hold, or the guard is set without a command, nova-compute refuses to
start: `init_host` raises before it does anything. The configuration is read there, when it is known
for certain, and not when the hook is loaded: an option that is read too early has its default, and
that would be to guard nothing. Nothing else that destroys is guarded (such as
`running_deleted_instance_action`).
"""

import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from metaledger.producers.verdicts import TIMEOUT_S, judge
from metaledger.schemas.errors import OperatorError
from metaledger.schemas.instance import Verdict

_log = structlog.get_logger("metaledger.producers")

GROUP = "metaledger"
MODULE = "nova.compute.manager"
# The options of `[metaledger]` that are the guard's.
OPTIONS = frozenset({"guard", "guard_command", "guard_timeout_s"})
_METHOD, _LOCAL, _MIGRATIONS = "_destroy_evacuated_instances", "_get_instances_on_driver", "objects"
_PARAMETERS = ["self", "context", "node_cache"]
_NAMED = frozenset({_LOCAL, _MIGRATIONS, "MigrationList", "get_by_filters", "driver", "destroy"})
_EVACUATION = "evacuation"
_MARK = "__metaledger_guard__"
Migration = Any
Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """The command that has the guard, as arguments, and how long it may take."""

    command: Sequence[str]
    timeout_s: float = TIMEOUT_S


def load() -> GuardSettings | None:
    """What `[metaledger]` of nova.conf says; None: the guard is not set. Raises OperatorError."""
    cfg = sys.modules.get("oslo_config.cfg")
    if cfg is None:
        return None
    options = (
        cfg.BoolOpt("guard", default=False, help="Destroy only what the ledger allows."),
        cfg.StrOpt("guard_command", help="The command line that has `guard`, with its options."),
        cfg.FloatOpt("guard_timeout_s", default=TIMEOUT_S, min=1, help="How long it may take."),
    )
    for option in options:
        cfg.CONF.register_opt(option, group=GROUP)
    chosen = cfg.CONF[GROUP]
    if not chosen.guard:
        return None
    try:
        command = shlex.split(chosen.guard_command or "")
    except ValueError as error:
        raise OperatorError(f"[metaledger] guard_command cannot be read: {error}") from None
    if not command:
        raise OperatorError(
            "[metaledger] guard is set without a guard_command: name the command line that asks, "
            "such as /opt/metaledger/bin/metaledger --config /etc/metaledger/metaledger.toml"
        )
    return GuardSettings(command, chosen.guard_timeout_s)


def install(manager: Any) -> None:  # noqa: ANN401 (MODULE, when Nova has loaded it)
    """Guards nova-compute from its start on, if its configuration says so then; a second time it
    does nothing.
    """
    owner = manager.ComputeManager
    if hasattr(owner, _MARK):
        return
    setattr(owner, _MARK, True)
    method = vars(owner).get(_METHOD)
    owner.init_host = _checked(owner, owner.init_host, method)
    if method is not None:
        setattr(owner, _METHOD, _guarded(manager, method))


def _checked(owner: Any, start: Function, method: Any) -> Function:  # noqa: ANN401
    @functools.wraps(start)
    def init_host(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        settings = load()
        if settings is not None:
            _check_fits(owner, method)
            _log.info("what was evacuated is guarded", command=list(settings.command))
        return start(*args, **kwargs)

    return init_host


def _check_fits(owner: Any, method: Any) -> None:  # noqa: ANN401 (a class of Nova's, its method)
    """Raises OperatorError where Nova's code is other than assumed."""
    flaw = _flaw(owner, method)
    if flaw is not None:
        raise OperatorError(
            f"the destroy guard does not fit this Nova: {flaw}; upgrade Metaledger, or unset "
            "[metaledger] guard, and nothing is guarded"
        )


def _flaw(owner: Any, method: Any) -> str | None:  # noqa: ANN401 (as above)
    if not inspect.isfunction(method) or not inspect.isfunction(getattr(owner, _LOCAL, None)):
        return f"ComputeManager lacks {_METHOD} or {_LOCAL}"
    if list(inspect.signature(method).parameters) != _PARAMETERS:
        return f"{_METHOD} does not take {', '.join(_PARAMETERS)}"
    lacking = _NAMED - set(inspect.unwrap(method).__code__.co_names)
    if lacking:
        return f"{_METHOD} does not use {', '.join(sorted(lacking))}"
    return None


def _guarded(manager: Any, original: Function) -> Function:  # noqa: ANN401 (a module of Nova's)
    @functools.wraps(original)
    def destroy_evacuated_instances(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        settings = load()
        if settings is None:
            return original(*args, **kwargs)
        _check_fits(manager.ComputeManager, original)
        self, context, nodes = inspect.signature(original).bind(*args, **kwargs).args
        sieve = _Sieve(self, context, nodes, settings)
        with sieve.over(manager.objects.MigrationList):
            evacuated = original(self, context, nodes)
        return {**evacuated, **sieve.refused}

    return destroy_evacuated_instances


@dataclass(slots=True)
class _Sieve:
    """One call of the method: what it gets to see. `allowed` is None until it has been asked."""

    manager: Any
    context: object
    node_cache: Mapping[str, Any]
    settings: GuardSettings
    allowed: frozenset[str] | None = None
    refused: dict[str, Migration] = field(default_factory=dict)

    @contextmanager
    def over(self, migrations: Any) -> Iterator[None]:  # noqa: ANN401 (Nova's MigrationList)
        """Within it the method gets what is allowed alone."""
        found, its_own = migrations.get_by_filters, vars(migrations).get("get_by_filters")
        local = getattr(self.manager, _LOCAL)

        def sifted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            filters = args[1] if len(args) > 1 else kwargs.get("filters", {})
            rows = found(*args, **kwargs)
            if self.allowed is not None or filters.get("migration_type") != _EVACUATION:
                return rows
            return self._sift(list(rows), local)

        def allowed_ones(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            allowed = self.allowed
            if allowed is None:
                raise OperatorError(
                    f"the destroy guard does not fit this Nova: {_METHOD} has not asked for the "
                    "evacuations before it looked at what is here"
                )
            return [one for one in local(*args, **kwargs) if one.uuid in allowed]

        migrations.get_by_filters = sifted
        setattr(self.manager, _LOCAL, allowed_ones)
        try:
            yield
        finally:
            delattr(self.manager, _LOCAL)
            if its_own is None:
                del migrations.get_by_filters
            else:
                migrations.get_by_filters = its_own

    def _sift(self, rows: list[Migration], local: Callable[..., Any]) -> list[Migration]:
        """The migrations of which nothing is here, or of which it may be destroyed."""
        held = {one.uuid for one in local(self.context)} if rows else set()
        # Of several of one instance, Nova takes the last too.
        asked = {row.instance_uuid: row for row in rows if row.instance_uuid in held}
        self.allowed = frozenset(self._allowed(asked))
        self.refused = {uuid: row for uuid, row in asked.items() if uuid not in self.allowed}
        return [row for row in rows if row.instance_uuid not in self.refused]

    def _allowed(self, asked: Mapping[str, Migration]) -> Iterator[str]:
        by_hypervisor: dict[str | None, list[str]] = {}
        for uuid, migration in asked.items():
            by_hypervisor.setdefault(self._hypervisor_of(migration), []).append(uuid)
        for hypervisor_id, uuids in by_hypervisor.items():
            if hypervisor_id is None:
                _log.warning("not destroyed: no node here is the migration's", instances=uuids)
                continue
            answers = judge(
                hypervisor_id,
                self.manager.host,
                uuids,
                command=self.settings.command,
                timeout_s=self.settings.timeout_s,
            )
            for uuid, answer in answers.items():
                told = {"instance": uuid, "verdict": answer.verdict.value, "reason": answer.reason}
                if answer.verdict is Verdict.ALLOW:
                    _log.info("to be destroyed", **told)
                    yield uuid
                else:
                    _log.warning("not destroyed", **told)

    def _hypervisor_of(self, migration: Migration) -> str | None:
        named = [
            uuid
            for uuid, node in self.node_cache.items()
            if node.hypervisor_hostname == migration.source_node
        ]
        candidates = named or list(self.node_cache)
        return str(candidates[0]) if len(candidates) == 1 else None
