"""Video routes: hand in a local video."""

import asyncio
from http import HTTPStatus

from fastapi import APIRouter, Request

from services.api.asking import RequestInvalidError
from services.api.edge import Edge, EdgeDep
from services.api.problems import ProblemError
from services.api.receiving import ReceivedFile, received_file
from services.api.routes.documents import binary, problems
from services.api.schemas import UploadAnswer, VideoBody
from shared.errors import MediaError
from shared.storage.keys import upload_key
from shared.video import VideoInfo, probe_video

BUSY_S = 10
PROBE_S = 300.0  # every packet is read: 2 GiB from a slow disk
_TYPES = {"mov": "video/mp4", "matroska": "video/x-matroska"}
router = APIRouter(tags=["videos"])


@router.post(
    "/api/v3/videos",
    status_code=HTTPStatus.CREATED,
    responses={**problems(400, 408, 413, 422, 503)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": binary("video/mp4", "video/x-matroska", "application/octet-stream"),
        }
    },
    summary="Hand in a video file; the body is the file",
)
async def hand_in_video(request: Request, edge: EdgeDep) -> UploadAnswer:
    """Check and keep a video; the same bytes are kept once."""
    if edge.uploads.locked():
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "as many videos come in as may at once",
            headers={"Retry-After": str(BUSY_S)},
        )
    limits = edge.settings.limits
    async with (
        edge.uploads,
        received_file(
            request,
            bytes_max=limits.video_bytes_max,
            part_s=limits.receive_s,
            folder=edge.settings.scratch_dir,
        ) as received,
    ):
        info = await _probed(received)
        key = await _kept(edge, received, info)
    return UploadAnswer(
        video=VideoBody(object=key),
        size_bytes=received.size_bytes,
        duration_s=info.duration_s,
        width=info.width,
        height=info.height,
    )


async def _probed(received: ReceivedFile) -> VideoInfo:
    try:
        async with asyncio.timeout(PROBE_S):
            return await asyncio.to_thread(probe_video, received.path)
    except MediaError as error:
        raise RequestInvalidError([("video", error.reason)]) from error


async def _kept(edge: Edge, received: ReceivedFile, info: VideoInfo) -> str:
    key = upload_key(received.sha256)
    found = await edge.store.stat(key)
    if found is None or found.size_bytes != received.size_bytes:
        await edge.store.put_file(key, received.path, content_type=_TYPES[info.demuxer])
    return key
