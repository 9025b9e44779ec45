"""The `segue fetch` command: writes the files of a job that was started elsewhere or earlier.

A running job is followed to its end first.

I/O: HTTP, files; a stack, if none runs and no api is named.
"""

from pathlib import Path

from rich.console import Console

from ops.cli import options
from ops.cli.exit_codes import report_errors
from ops.cli.options import ApiUrl, DataDir, Json
from ops.cli.output import show_files
from ops.cli.progress import JobProgress, progress_console
from ops.cli.settings import CommandSettings
from ops.score.api_client import ApiClient
from ops.score.follow import ENDED, follow
from ops.score.local_stack import open_api
from ops.score.outputs import folder_name, open_output
from ops.score.results import ReportDetails, resumable, write_results
from services.api.http.schemas import StatusResponse


def fetch(
    *,
    job_id: str,
    out: options.JobOut = None,
    force: options.Force = False,
    api: ApiUrl = None,
    data_dir: DataDir = None,
    timeout: options.Timeout = None,
    as_json: Json = False,
) -> None:
    """Write the track, video, image and report of JOB_ID; follow it to its end first."""
    with report_errors(as_json=as_json):
        settings = CommandSettings.of_options(api=api, data_dir=data_dir, timeout_s=timeout)
        console = progress_console(quiet=as_json)
        folder = out or Path("out") / folder_name(job_id)
        with (
            open_output(folder, force=force) as output,
            open_api(settings, provider=None, notify=console.print) as client,
            resumable(job_id, folder),
        ):
            status = _ended(client, job_id, timeout_s=settings.score_s, console=console)
            report = write_results(client, status, output, ReportDetails())
        show_files(report, as_json=as_json)


def _ended(client: ApiClient, job_id: str, *, timeout_s: float, console: Console) -> StatusResponse:
    """Return the status of the job's newest run once it has ended."""
    status = client.status(job_id)
    if status.audio_status.status in ENDED:
        return status
    console.print(f"job {job_id}, run {status.run}, at {client.url}")
    with JobProgress(console) as progress:
        return follow(client, job_id, run=None, on_status=progress.update, timeout_s=timeout_s)
