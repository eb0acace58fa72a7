"""`mm config`: check mm.yaml and the environment, and print the reference of mm.yaml."""

import os

import typer

from mm_pipelines.cli.output import fail

app = typer.Typer(no_args_is_help=True, help="mm.yaml and the environment.")


@app.command()
def check() -> None:
    """Validate mm.yaml and the environment, and report every fault at once."""
    from mm_pipelines.config import ConfigError, Fault, environment_faults
    from mm_pipelines.graph_api.transport import is_http_address
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.warehouse.database import Database, DatabaseUrlError

    environment = Environment.resolve()
    faults: list[Fault] = []
    try:
        config = environment.config()
    except ConfigError as error:
        faults += error.faults
    else:
        faults += environment_faults(config, {**os.environ, **environment.sandbox_secrets})
    if environment.external_database_url is not None:
        try:
            Database(environment.external_database_url)
        except DatabaseUrlError as error:
            faults.append(Fault("MM_DATABASE_URL", str(error).removeprefix("MM_DATABASE_URL ")))
    if not is_http_address(environment.graph_api_url):
        faults.append(Fault("MM_GRAPH_API_URL", "is not an http:// or https:// address"))
    if faults:
        for fault in faults:
            typer.echo(str(fault), err=True)
        count = len(faults)
        fail(f"{count} fault{'s' if count > 1 else ''} found; correct them and check again")
    typer.echo(
        f"{environment.config_path}: {len(config.pages)} pages, {len(config.audiences)} audiences, "
        "no faults"
    )


@app.command()
def schema() -> None:
    """Print the JSON Schema of mm.yaml, for editors."""
    import json

    from mm_pipelines.cli.config_reference import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def reference() -> None:
    """Print the reference of mm.yaml as Markdown."""
    from mm_pipelines.cli.config_reference import markdown

    typer.echo(markdown(), nl=False)
