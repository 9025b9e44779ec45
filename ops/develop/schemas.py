"""The `segue schemas` command: writes the generated files of a source checkout."""

from ops.cli.exit_codes import CommandError, Exit, report_errors


def schemas() -> None:
    """Write the generated files (JSON schemas, AsyncAPI, docs, dashboard) of a source checkout."""
    with report_errors(as_json=False):
        try:
            from tools.contract.schemas import main  # noqa: PLC0415 - images and wheels lack it
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "tools":
                raise
            raise CommandError(
                Exit.REFUSED,
                "segue schemas: works in a source checkout only; clone the repository and run "
                "it there",
            ) from error
        main()
