"""All commands in the order of ``intake --help``."""

from __future__ import annotations

import typer

from service.cli import catalogue, config, jobs, links, records, results, server, tokens, webhooks
from service.cli.command import root
from service.cli.process import process
from service.cli.upload import upload

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, pretty_exceptions_show_locals=False, rich_markup_mode="rich"
)
app.callback()(root)

_USE = "Use a service"
app.command("upload", rich_help_panel=_USE)(upload)
app.add_typer(jobs.app, name="jobs", rich_help_panel=_USE)
app.add_typer(results.app, name="results", rich_help_panel=_USE)
app.add_typer(links.app, name="links", rich_help_panel=_USE)

_RUN = "Run the service"
app.command("serve", rich_help_panel=_RUN)(server.serve)
app.command("worker", rich_help_panel=_RUN)(server.worker)
app.add_typer(tokens.app, name="tokens", rich_help_panel=_RUN)
app.add_typer(webhooks.app, name="webhooks", rich_help_panel=_RUN)
app.add_typer(config.app, name="config", rich_help_panel=_RUN)
app.command("migrate", rich_help_panel=_RUN)(records.migrate)
app.command("export", rich_help_panel=_RUN)(records.export)
app.command("import", rich_help_panel=_RUN)(records.import_)
app.command("doctor", rich_help_panel=_RUN)(server.doctor)
app.command("fsck", rich_help_panel=_RUN)(server.fsck)
app.command("gc", rich_help_panel=_RUN)(server.gc)
app.command("health", rich_help_panel=_RUN)(server.health)
app.command("version", rich_help_panel=_RUN)(server.version)

_WRITE = "Write processors"
app.command("process", rich_help_panel=_WRITE)(process)
app.add_typer(catalogue.processors, name="processors", rich_help_panel=_WRITE)
app.add_typer(catalogue.pipelines, name="pipelines", rich_help_panel=_WRITE)
