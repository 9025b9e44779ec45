"""Route that uploads a video."""

from http import HTTPStatus

from fastapi import APIRouter, Request

from services.api.domain.request_models import VideoBody
from services.api.domain.run_spec import RequestInvalidError
from services.api.http.context import ContextDep
from services.api.http.openapi import binary, problems
from services.api.http.schemas import UploadResponse
from services.api.http.uploads import receive_upload, store_upload
from shared.errors import MediaError
from shared.media.video import probe_video

_TYPES = {"mov": "video/mp4", "matroska": "video/x-matroska"}
router = APIRouter(tags=["videos"])


@router.post(
    "/api/v3/videos",
    status_code=HTTPStatus.CREATED,
    responses={**problems(400, 403, 408, 413, 415, 422, 503, 507)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": binary("video/mp4", "video/x-matroska", "application/octet-stream"),
        }
    },
    summary="Upload a video; the body is the file",
)
async def upload_video(request: Request, context: ContextDep) -> UploadResponse:
    """Validate and store a video; the same bytes are stored once."""
    bytes_max = context.settings.limits.video_bytes_max
    async with receive_upload(request, context, bytes_max=bytes_max) as received:
        try:
            info = await context.sandbox.run(probe_video, received.path)
        except MediaError as error:
            raise RequestInvalidError([("video", error.reason)]) from error
        key = await store_upload(context, received, content_type=_TYPES[info.demuxer])
    return UploadResponse(
        video=VideoBody(object=key),
        size_bytes=received.size_bytes,
        duration_s=info.duration_s,
        width=info.width,
        height=info.height,
    )
