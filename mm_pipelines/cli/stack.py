"""`mm up` and `mm env`: run the stack, or print its environment variables."""

import shlex
from typing import Annotated

import typer

from mm_pipelines.local.ports import HOST, RECEIVER_PORT, SANDBOX_PORT, UI_PORT, Ports


def up(
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Use a sandbox instead of the Graph API.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address that the servers listen on.")] = HOST,
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = UI_PORT,
    receiver_port: Annotated[int, typer.Option(help="Port of the receiver.")] = RECEIVER_PORT,
    sandbox_port: Annotated[int, typer.Option(help="Port of the sandbox.")] = SANDBOX_PORT,
) -> None:
    """Run everything on this machine until Ctrl-C."""
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.local.processes import Stopped
    from mm_pipelines.local.stack import Stack

    ports = Ports(host=host, ui=port, receiver=receiver_port, sandbox=sandbox_port)
    if sandbox:
        environment = Environment.for_sandbox(ports.sandbox_url)
    else:
        environment = Environment.for_graph_api()
        environment.config()
    try:
        with Stack(environment, ports, report=_report) as stack:
            stack.start_servers()
            stack.start_daemon()
            typer.echo("")
            typer.echo(f"Dagster UI        {ports.ui_url}")
            typer.echo(f"webhook receiver  {ports.receiver_url}/webhooks")
            if sandbox:
                typer.echo(f"sandbox           {ports.sandbox_url}")
            typer.echo(f"mm.yaml           {environment.config_path}")
            typer.echo(f"state and logs    {environment.home}")
            typer.echo("Stop it with Ctrl-C.")
            stack.wait()
    except Stopped:
        # Being stopped is how this command ends.
        return


def env() -> None:
    """Print the environment variables that `dagster` commands need.

    Use it as: eval "$(mm env)". The embedded database is started if needed and
    keeps running; `mm db stop` stops it.
    """
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.local.stack import prepare_dagster_home
    from mm_pipelines.warehouse.database import Database
    from mm_pipelines.warehouse.migrate import upgrade

    environment = Environment.resolve()
    postgres = environment.postgres()
    if postgres is not None:
        postgres.start()
        database = Database(environment.database_url())
        upgrade(database)
        database.dispose()
    prepare_dagster_home(environment)
    for name, value in environment.exports().items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def _report(part: str) -> None:
    typer.echo(f"· {part}")
