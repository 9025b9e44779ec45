"""Client: the api over HTTP, as the commands need it.

Answers are the api's own models. What the api refuses is the caller's input; what does not
answer is a stack that is not there. A busy api (503, 429) is asked again, as long as it says.

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
from services.api.http.schemas import GenerateAnswer, StatusAnswer, StyleBody, UploadAnswer

M = TypeVar("M", bound=BaseModel)
ANSWER_S = 30.0
UPLOAD_S = 600.0  # the api reads every packet of a video before it answers
_TRIES_MAX = 5
_PAUSE_S = 1.0
_PAUSE_S_MAX = 10.0
_BLOCK_BYTES = 256 * 1024
_BUSY = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class StyleAnswer(BaseModel):
    """A style sample that was taken in, as far as a command needs to know."""

    style_audio: StyleBody


class ApiClient:
    """One api. Close it, or use it as a context."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            host = urlsplit(self.url).hostname
            self._http = httpx.Client(
                base_url=self.url,
                timeout=ANSWER_S,
                trust_env=host not in _LOOPBACK,  # a proxy cannot reach this machine's loopback
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise CommandError(Exit.USAGE, f"{url} is not a URL ({error})") from error

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

    def upload(self, video: Path) -> UploadAnswer:
        """Hand in a video file."""
        return self._read(UploadAnswer, self._hand_in("/api/v3/videos", video))

    def upload_style(self, audio: Path) -> StyleAnswer:
        """Hand in a style sample."""
        return self._read(StyleAnswer, self._hand_in("/api/v3/audio/styles", audio))

    def start(self, body: dict[str, Any]) -> GenerateAnswer:
        """Start a run."""
        return self._read(
            GenerateAnswer, self._ask("POST", "/api/v3/audio/generate-scenes", json=body)
        )

    def status(self, job_id: str) -> StatusAnswer:
        """Everything known of the job's newest run."""
        return self._read(StatusAnswer, self._ask("GET", f"/api/v3/audio/status/{_name(job_id)}"))

    def download(self, link: str, place: Path) -> dict[str, Any]:
        """Write what `link` names to `place`, whole or not at all; its size and SHA-256."""
        half = place.with_name(f".{place.name}.half")
        digest, size = hashlib.sha256(), 0
        try:
            with self._http.stream("GET", link) as answer, half.open("wb") as file:
                if not answer.is_success:
                    answer.read()
                    raise _refused(answer)
                for block in answer.iter_bytes(_BLOCK_BYTES):
                    file.write(block)
                    digest.update(block)
                    size += len(block)
                file.flush()
                os.fsync(file.fileno())
        except httpx.HTTPError as error:
            raise self._away(error) from error
        else:
            half.rename(place)
        finally:
            half.unlink(missing_ok=True)
        return {"path": str(place), "size_bytes": size, "sha256": digest.hexdigest()}

    def _hand_in(self, path: str, file: Path) -> httpx.Response:
        size = {"Content-Length": str(file.stat().st_size)}
        return self._ask(
            "POST",
            path,
            content=lambda: _blocks(file),
            headers={"Content-Type": "application/octet-stream", **size},
            timeout=httpx.Timeout(ANSWER_S, read=UPLOAD_S),
        )

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        content = request.pop("content", None)
        for left in reversed(range(_TRIES_MAX)):
            try:
                body = {"content": content()} if content else {}
                answer = self._http.request(method, path, **request, **body)
            except httpx.HTTPError as error:
                raise self._away(error) from error
            if answer.is_success:
                return answer
            if answer.status_code not in _BUSY or not left:
                raise _refused(answer)
            time.sleep(_pause_s(answer))
        raise AssertionError("the last try returns or raises")

    def _read(self, model: type[M], answer: httpx.Response) -> M:
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as error:
            raise CommandError(
                Exit.UNREACHABLE, f"{self.url} does not answer as a Segue api does"
            ) from error

    def _away(self, error: httpx.HTTPError) -> CommandError:
        return CommandError(
            Exit.UNREACHABLE,
            f"the api at {self.url} does not answer ({str(error) or type(error).__name__}): "
            "start it with `segue up`, or name another with --api",
        )


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _name(job_id: str) -> str:
    return quote(job_id, safe="")


def _pause_s(answer: httpx.Response) -> float:
    try:
        asked = float(answer.headers.get("Retry-After", ""))
    except ValueError:
        asked = _PAUSE_S
    return min(max(asked, 0.0), _PAUSE_S_MAX)


def _refused(answer: httpx.Response) -> CommandError:
    """What the api said, as the error it means here."""
    try:
        problem = answer.json()
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        problem, detail = {}, answer.text[:300]
    code = Exit.UNREACHABLE if answer.is_server_error else Exit.USAGE
    return CommandError(
        code, detail or f"the api answered {answer.status_code}", detail={"problem": problem}
    )
