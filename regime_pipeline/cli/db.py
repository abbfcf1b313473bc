"""`regime db`: the database server, its schema and its description."""

import json
from pathlib import Path
from typing import Annotated

import typer

from regime_pipeline.adapters.postgres.connect import database_urls, open_connection
from regime_pipeline.adapters.postgres.dictionary import build_dictionary
from regime_pipeline.adapters.postgres.embedded import server_status, stop_server
from regime_pipeline.adapters.postgres.migrate import SQL_FOLDER, apply_roles, migrate, status
from regime_pipeline.errors import ConfigError, DatabaseError
from regime_pipeline.settings import Settings, load_settings

DICTIONARY_PATH = SQL_FOLDER.parent / "docs" / "data-dictionary.md"

db_app = typer.Typer(name="db", help="The database: server, schema, description.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@db_app.command("migrate")
def migrate_command(as_json: Json = False) -> None:
    """Bring the schema to the newest version; starts the embedded server if need be. Safe to repeat."""
    with open_connection(database_urls(load_settings()).regime) as conn:
        applied = [str(migration) for migration in migrate(conn)]
        has_roles = apply_roles(conn)
    if as_json:
        typer.echo(json.dumps({"applied": applied, "roles": has_roles}))
        return
    typer.echo("\n".join(f"applied {name}" for name in applied) or "schema is up to date")
    if not has_roles:
        typer.echo("roles of sql/roles.sql skipped: this user may not create roles")


@db_app.command("status")
def status_command(as_json: Json = False) -> None:
    """Tell the state of the server and of the schema; starts nothing. Exit code 1 when not running or not up to date."""
    settings = load_settings()
    server = server_status(settings.home) if settings.database_url is None else None
    report: dict[str, object] = {"server": "external" if server is None else server.state, "applied": [], "pending": []}
    if server is not None:
        report |= {"port": server.port, "data": _text(server.data), "log": _text(server.log)}
    is_current = False
    if server is None or server.state == "running":
        with open_connection(database_urls(settings).regime) as conn:
            schema = status(conn)
        applied = [f"{row.version:04d}_{row.name}" for row in schema.applied]
        report |= {"applied": applied, "pending": [str(migration) for migration in schema.pending]}
        is_current = not schema.pending
    if as_json:
        typer.echo(json.dumps(report))
    else:
        for name, value in report.items():
            typer.echo(f"{name:8} {', '.join(value) or 'none' if isinstance(value, list) else value}")
    raise typer.Exit(0 if is_current else 1)


@db_app.command("url")
def url_command(
    dagster: Annotated[bool, typer.Option("--dagster", help="Of Dagster's database instead of ours.")] = False, as_json: Json = False
) -> None:
    """Print the address with its password, for psql and other programs; starts the embedded server if need be."""
    urls = database_urls(load_settings())
    typer.echo(json.dumps({"regime": urls.regime, "dagster": urls.dagster}) if as_json else urls.dagster if dagster else urls.regime)


@db_app.command("start")
def start_command(as_json: Json = False) -> None:
    """Start the embedded server; it keeps running until `regime db stop`."""
    settings = _embedded_settings()
    database_urls(settings)
    server = server_status(settings.home)
    typer.echo(json.dumps({"server": server.state, "port": server.port}) if as_json else f"server is {server.state} on port {server.port}")


@db_app.command("stop")
def stop_command(as_json: Json = False) -> None:
    """Stop the embedded server; transactions in flight roll back."""
    stopped = stop_server(_embedded_settings().home)
    typer.echo(json.dumps({"stopped": stopped}) if as_json else "server stopped" if stopped else "no server was running")


@db_app.command("dictionary")
def dictionary_command(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when the file is stale.")] = False,
    path: Annotated[Path, typer.Option(help="The file.")] = DICTIONARY_PATH,
) -> None:
    """Write docs/data-dictionary.md from the comments of the migrated database."""
    with open_connection(database_urls(load_settings()).regime) as conn:
        page = build_dictionary(conn)
    if not check:
        path.write_text(page)
        typer.echo(f"wrote {path}")
    elif not path.exists() or path.read_text() != page:
        raise DatabaseError(f"{path} is not what the database says. Run `regime db dictionary` and commit the file.")


def _embedded_settings() -> Settings:
    settings = load_settings()
    if settings.database_url is not None:
        raise ConfigError("REGIME_DATABASE_URL is set: that server is not ours to start or stop. Unset it to use the embedded one.")
    return settings


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
