"""The `mm` command: one module for each group of commands.

What a command needs is imported when it runs: `mm --help` should not wait for a database driver.
"""

import typer

from mm_pipelines.cli import (
    audiences,
    configuration,
    consent,
    database,
    demo,
    doctor,
    erase,
    init,
    normalize,
    pause,
    rejects,
    report,
    sandbox,
    sources,
    stack,
    status,
    tokens,
    unsubscribe,
    upload,
    uploads,
    webhooks,
)
from mm_pipelines.cli.output import Commands

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Grow and keep a Facebook Page's audience for Meta's Marketing Messages API.",
)
app.command("init")(init.init)
app.command("up")(stack.up)
app.command("demo")(demo.demo)
app.command("env")(stack.env)
app.command("sandbox")(sandbox.sandbox)
app.command("doctor")(doctor.doctor)
app.command("status")(status.status)
app.command("upload")(upload.upload)
app.command("pause")(pause.pause)
app.command("resume")(pause.resume)
app.command("unsubscribe")(unsubscribe.unsubscribe)
app.command("erase")(erase.erase)
app.command("normalize")(normalize.normalize)
app.command("rejects")(rejects.rejects)
app.command("report")(report.report)
app.add_typer(audiences.app, name="audiences")
app.add_typer(uploads.app, name="uploads")
app.add_typer(sources.app, name="sources")
app.add_typer(consent.app, name="consent")
app.add_typer(tokens.app, name="tokens")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(database.app, name="db")
app.add_typer(configuration.app, name="config")
