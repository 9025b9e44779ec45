"""HTTP client of the api for the commands.

Responses are parsed into the api's own models. A 4xx response is wrong input; no response means
that the api is unreachable. A busy api (503, 429) is retried after its `Retry-After`.

Units: seconds, bytes. I/O: HTTP.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.output import scene_numbers
from ops.cli.servers import READYZ_NAMES, problem_text
from services.api.http.schemas import GenerateResponse, StatusResponse, UploadResponse
from services.api.operators import StyleBody
from shared.http.probes import Ready
from shared.http.retry_after import parse_retry_after

M = TypeVar("M", bound=BaseModel)
RESPONSE_S = 30.0
READY_S = 5.0  # the api waits at most 3 s for each of its servers
UPLOAD_S = 600.0  # the api reads every packet of a video before it responds
_TRIES_MAX = 5
_PAUSE_S = 1.0
_PAUSE_S_MAX = 10.0
_BLOCK_BYTES = 256 * 1024
_BUSY = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class StyleAnswer(BaseModel):
    """The needed part of the upload response of a style sample."""

    style_audio: StyleBody


class ApiClient:
    """A client of one api; use it as a context manager."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port  # an impossible port is a ValueError
            self._http = httpx.Client(
                base_url=self.url,
                timeout=RESPONSE_S,
                trust_env=host not in _LOOPBACK,  # a proxy cannot reach this loopback
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise CommandError(Exit.USAGE, f"--api: {url} is not a URL ({error})") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._http.close()

    @property
    def is_alive(self) -> bool:
        """Whether the api answers `livez`."""
        try:
            return self._http.get("/livez", timeout=2.0).is_success
        except httpx.HTTPError:
            return False

    def upload(self, video: Path) -> UploadResponse:
        """Upload a video file."""
        return self._read(UploadResponse, self._upload("/api/v3/videos", video))

    def upload_style(self, audio: Path) -> StyleAnswer:
        """Upload a style sample."""
        return self._read(StyleAnswer, self._upload("/api/v3/audio/styles", audio))

    def start(self, body: dict[str, Any]) -> GenerateResponse:
        """Start a run."""
        return self._read(
            GenerateResponse, self._request("POST", "/api/v3/audio/generate-scenes", json=body)
        )

    def status(self, job_id: str) -> StatusResponse:
        """Return the status of the job's newest run."""
        path = f"/api/v3/audio/status/{quote(job_id, safe='')}"
        return self._read(StatusResponse, self._request("GET", path))

    def problems(self) -> list[str]:
        """Return a sentence for each server that the api reports as unavailable."""
        try:
            response = self._http.get("/readyz", timeout=READY_S)
            checks = Ready.model_validate_json(response.content).checks
        except (httpx.HTTPError, ValidationError):
            return []
        return [
            problem_text(READYZ_NAMES[name], check.detail)
            if name in READYZ_NAMES
            else f"{name}: {check.detail}"
            for name, check in checks.items()
            if not check.ok
        ]

    def download(self, link: str, path: Path) -> dict[str, Any]:
        """Write the file at `link` to `path`, atomically; return its size and SHA-256."""
        half = path.with_name(f".{path.name}.half")
        digest, size = hashlib.sha256(), 0
        try:
            with self._http.stream("GET", link) as response, half.open("wb") as file:
                if not response.is_success:
                    response.read()
                    raise _to_error(response)
                for block in response.iter_bytes(_BLOCK_BYTES):
                    file.write(block)
                    digest.update(block)
                    size += len(block)
                file.flush()
                os.fsync(file.fileno())
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        else:
            half.rename(path)
        finally:
            half.unlink(missing_ok=True)
        return {"path": str(path), "size_bytes": size, "sha256": digest.hexdigest()}

    def _upload(self, path: str, file: Path) -> httpx.Response:
        size = {"Content-Length": str(file.stat().st_size)}
        return self._request(
            "POST",
            path,
            content=lambda: _blocks(file),
            headers={"Content-Type": "application/octet-stream", **size},
            timeout=httpx.Timeout(RESPONSE_S, read=UPLOAD_S),
        )

    def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        content = request.pop("content", None)
        for tries_left in reversed(range(_TRIES_MAX)):
            try:
                body = {"content": content()} if content else {}
                response = self._http.request(method, path, **request, **body)
            except httpx.HTTPError as error:
                raise self._unreachable(error) from error
            if response.is_success:
                return response
            if response.status_code not in _BUSY or not tries_left:
                raise self._named(_to_error(response))
            time.sleep(_retry_after_s(response))
        raise AssertionError("the last try returns or raises")

    def _read(self, model: type[M], response: httpx.Response) -> M:
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise CommandError(Exit.UNREACHABLE, f"{self.url} is not a Segue api") from error

    def _named(self, error: CommandError) -> CommandError:
        """Return the error of a failing api with the servers that are unavailable."""
        problems = self.problems() if error.code is Exit.UNREACHABLE else []
        if not problems:
            return error
        return CommandError(error.code, f"{'; '.join(problems)} ({error})", detail=error.detail)

    def _unreachable(self, error: httpx.HTTPError) -> CommandError:
        return CommandError(
            Exit.UNREACHABLE,
            f"the api at {self.url} is unreachable ({str(error) or type(error).__name__}); "
            'start one with "segue up", or name another with --api',
        )


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _retry_after_s(response: httpx.Response) -> float:
    seconds = parse_retry_after(response.headers.get("Retry-After"), now=None)
    return min(_PAUSE_S if seconds is None else seconds, _PAUSE_S_MAX)


def _to_error(response: httpx.Response) -> CommandError:
    """Return the error that an unsuccessful response means for a command."""
    try:
        problem = response.json()
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        problem, detail = {}, response.text[:300]
    code = Exit.UNREACHABLE if response.is_server_error else Exit.USAGE
    if response.status_code == HTTPStatus.NOT_FOUND:
        code = Exit.REFUSED
    return CommandError(
        code,
        scene_numbers(detail) or f"the api returned {response.status_code}",
        detail={"problem": problem},
    )
