"""The commands `segue prepare` and `segue acls`."""

import sys
from typing import Annotated

import typer

from ops.cli.exit_codes import CommandError, Exit, print_json, report_errors
from ops.cli.layout import Hanging, count_of
from ops.cli.operator import servers_of_environment
from ops.cli.options import Json
from ops.cli.server_addresses import KAFKA_VARIABLE, no_stack
from ops.cli.settings import CommandSettings
from ops.cli.terminal import print_lines
from ops.cluster.acls import grants
from ops.cluster.prepare import prepare as run_prepare
from shared.settings import KafkaSettings


def prepare(
    *,
    within: Annotated[float, typer.Option(help="Seconds to wait for the servers.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Create the topics and the bucket if they are missing."""
    with report_errors(as_json=as_json):
        choice = servers_of_environment(CommandSettings.from_environment().home.folder)
        if choice.note:
            print_lines([Hanging("note: ", choice.note)], file=sys.stderr)
        if not choice.is_any_named:
            way_out = f"set {KAFKA_VARIABLE}, and SEGUE_STORE_DIR or MINIO_ENDPOINT"
            raise CommandError(Exit.UNREACHABLE, no_stack(choice.folder, way_out=way_out))

        def notify(text: str) -> None:
            if not as_json:
                print_lines([text])

        result = run_prepare(timeout_s=within, notify=notify)
        if as_json:
            print_json(result)
            return
        print_lines(f"created topic {name}" for name in result["topics_made"])
        print_lines([f"ready: {count_of(result['topics'], 'topic')}, store {result['store']}"])


def acls(
    *,
    config: Annotated[
        str, typer.Option(help="Client properties file of a Kafka administrator.")
    ] = "admin.properties",
) -> None:
    """Print the kafka-acls commands that grant each service its rights."""
    with report_errors(as_json=False):
        kafka = KafkaSettings.from_environment()
        for grant in grants(kafka):
            print(grant.command(kafka.bootstrap_servers, config))
