"""Cluster: the commands about the servers that the services work with."""

from typing import Annotated

import typer
from rich.console import Console

from ops.cli.exit_codes import print_json, report_errors
from ops.cli.options import Json
from ops.cluster.acls import grants
from ops.cluster.prepare import prepare as run_prepare
from shared.settings import KafkaSettings


def prepare(
    *,
    within: Annotated[float, typer.Option(help="Seconds to wait for the servers.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Make the topics and the bucket that are missing, and end."""
    with report_errors(as_json=as_json):
        say = Console(quiet=as_json, soft_wrap=True).print
        told = run_prepare(within_s=within, say=say)
        if as_json:
            print_json(told)
            return
        for name in told["topics_made"]:
            print(f"made topic {name}")
        print(f"ready: {told['topics']} topics, store {told['store']}")


def acls(
    *,
    config: Annotated[
        str, typer.Option(help="Kafka's own client settings of an administrator.")
    ] = "admin.properties",
) -> None:
    """Print the kafka-acls commands that give each service its rights, and no others."""
    with report_errors(as_json=False):
        kafka = KafkaSettings.from_environment()
        for grant in grants(kafka):
            print(grant.command(kafka.bootstrap_servers, config))
