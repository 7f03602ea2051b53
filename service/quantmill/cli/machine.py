"""Commands about this installation: what is plugged in, and whether it would work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from quantmill.cli import options
from quantmill.cli.exits import ExitCode
from quantmill.cli.output import note, say, show_json, show_table
from quantmill.contract.errors import QuantmillError

WORKER_MODULES = ("torch", "transformers")


def methods(
    name: Annotated[str | None, typer.Argument(help="Show this one's parameters.")] = None,
    as_json: options.Json = False,
) -> None:
    """The methods that are installed here, or one method's parameters."""
    from quantmill.plugins import load_plugins

    plugins = load_plugins()
    if name is not None:
        _show_method(plugins.method(name).describe(), as_json)
        return
    descriptions = [method.describe() for method in plugins.methods.values()]
    if as_json:
        show_json(descriptions)
        return
    columns = ("name", "version", "formats", "parameters", "summary")
    show_table(columns, [_method_row(description) for description in descriptions])


def plugins(as_json: options.Json = False) -> None:
    """The plugins that were found, and those that failed to load with the reason."""
    from quantmill.plugins import load_plugins

    found = load_plugins()
    if as_json:
        show_json(
            {"loaded": [vars(each) for each in found.loaded], "failures": [vars(each) for each in found.failures]}
        )
        return
    columns = ("plugin", "distribution", "version", "methods")
    show_table(
        columns, [(each.name, each.distribution, each.version, ", ".join(each.methods)) for each in found.loaded]
    )
    for failure in found.failures:
        note(f"{failure.name} failed to load: {failure.reason}")


def doctor(data_dir: options.DataDir = None, as_json: options.Json = False) -> int:
    """Check whether this installation can do its work; exit code 4 where it can't."""
    found = options.settings(data_dir=data_dir)
    results = [(name, *_outcome(check, found)) for name, check in CHECKS.items()]
    if as_json:
        show_json([{"check": name, "ok": ok, "detail": detail} for name, ok, detail in results])
    else:
        show_table(("check", "", "detail"), [(name, "ok" if ok else "FAILED", detail) for name, ok, detail in results])
    return ExitCode.DONE if all(ok for _, ok, _ in results) else ExitCode.INFRASTRUCTURE


def _show_method(description: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(description)
        return
    schema = description["params_schema"]
    say(f"{description['name']} {description['version']}: {description['summary']}")
    columns = ("parameter", "type", "default", "description")
    show_table(columns, [_parameter_row(name, each) for name, each in schema.get("properties", {}).items()])


def _method_row(description: dict[str, Any]) -> tuple[str, ...]:
    parameters = description["params_schema"].get("properties", {})
    names = (description["formats"], parameters)
    return (description["name"], description["version"], *(", ".join(each) for each in names), description["summary"])


def _parameter_row(name: str, schema: dict[str, Any]) -> tuple[Any, ...]:
    choices = schema.get("enum")
    kind = " | ".join(map(str, choices)) if choices else schema.get("type", "")
    return name, kind, schema.get("default"), schema.get("description", "")


# Checks: each gives a detail, or raises with the reason


def _outcome(check: Callable[[Any], str], found: Any) -> tuple[bool, str]:
    try:
        return True, check(found)
    except (QuantmillError, OSError, ImportError) as error:
        return False, str(error)


def _python(found: Any) -> str:
    return f"{sys.version.split()[0]}, quantmill {version('quantmill')}"


def _kernels(found: Any) -> str:
    import quantmill_kernels

    return f"{quantmill_kernels.isa()}, {len(quantmill_kernels.formats())} formats, {found.threads} threads"


def _plugins(found: Any) -> str:
    from quantmill.plugins import load_plugins

    loaded = load_plugins()
    if loaded.failures:
        raise QuantmillError("; ".join(f"{failure.name}: {failure.reason}" for failure in loaded.failures))
    return ", ".join(loaded.methods) or "none"


def _worker_modules(found: Any) -> str:
    missing = [name for name in WORKER_MODULES if find_spec(name) is None]
    if missing:
        raise ImportError(f"{', '.join(missing)} missing; a worker needs: pip install 'quantmill[worker]'")
    return ", ".join(WORKER_MODULES)


def _data_dir(found: Any) -> str:
    found.data_dir.mkdir(parents=True, exist_ok=True)
    probe = found.data_dir / ".doctor"
    probe.write_bytes(b"")
    probe.unlink()
    return str(found.data_dir)


def _database(found: Any) -> str:
    from quantmill.store.database import Database
    from quantmill.store.migrate import is_current

    database = Database.open(found.database)
    try:
        current = is_current(database)
        where = database.engine.url.render_as_string(hide_password=True)
    finally:
        database.dispose()
    if not current and found.database_url is not None:
        raise QuantmillError(f"{where} is not at this version's schema; run `quantmill migrate`")
    return where if current else f"{where}, made when first served"


def _estimates(found: Any) -> str:
    """The median error of what jobs were thought to take."""
    from quantmill.store.database import Database
    from quantmill.store.estimates import accuracies
    from quantmill.store.migrate import is_current

    database = Database.open(found.database)
    try:
        if not is_current(database):
            return "no job has run yet"
        with database.read() as tx:
            known = accuracies(tx)
    finally:
        database.dispose()
    told = [f"{each.method}: time {each.seconds:.0%}, memory {each.memory_bytes:.0%} ({each.runs})" for each in known]
    return "median error of " + "; ".join(told) if told else "no job has run yet"


def _broker(found: Any) -> str:
    if found.broker_url is None:
        return "none: jobs run in the process of `quantmill serve`"
    from quantmill.dispatch.celery_app import make_app

    try:
        with make_app(found).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            return str(connection.as_uri())
    except Exception as error:  # kombu passes on whatever its transport raises
        raise QuantmillError(f"the broker does not answer: {error}") from error


CHECKS: dict[str, Callable[[Any], str]] = {
    "python": _python,
    "kernels": _kernels,
    "plugins": _plugins,
    "worker modules": _worker_modules,
    "data folder": _data_dir,
    "database": _database,
    "broker": _broker,
    "estimates": _estimates,
}
