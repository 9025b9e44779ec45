"""Route that uploads a style sample."""

from http import HTTPStatus

from fastapi import APIRouter, Request

from services.api.domain.request_models import StyleBody
from services.api.domain.run_spec import RequestInvalidError
from services.api.http.context import ContextDep
from services.api.http.openapi import binary, problems
from services.api.http.presenter import BASE_PATH
from services.api.http.schemas import StyleUploadResponse
from services.api.http.uploads import receive_upload, store_upload
from shared.errors import MediaError
from shared.media.style_sample import read_style

router = APIRouter(tags=["audio"])


@router.post(
    f"{BASE_PATH}/styles",
    status_code=HTTPStatus.CREATED,
    responses={**problems(400, 403, 408, 413, 415, 422, 503, 507)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": binary(
                "audio/mpeg", "audio/wav", "audio/flac", "audio/ogg", "application/octet-stream"
            ),
        }
    },
    summary="Upload a style sample; the body is the file",
)
async def upload_style(request: Request, context: ContextDep) -> StyleUploadResponse:
    """Validate and store a style sample; the same bytes are stored once."""
    bytes_max = context.settings.limits.style_bytes_max
    async with receive_upload(request, context, bytes_max=bytes_max) as received:
        window_s = context.settings.pricing.style_window_s
        try:
            style = await context.sandbox.run(read_style, received.path, window_s=window_s)
        except MediaError as error:
            raise RequestInvalidError([("style_audio", error.reason)]) from error
        key = await store_upload(context, received, content_type=style.content_type)
    return StyleUploadResponse(
        style_audio=StyleBody(object=key),
        size_bytes=received.size_bytes,
        duration_s=style.duration_s,
        channels=style.channels,
        sample_rate_hz=style.sample_rate_hz,
    )
