"""Style routes: hand in music that a run begins from."""

import asyncio
from http import HTTPStatus

from fastapi import APIRouter, Request

from services.api.domain.run_spec import RequestInvalidError
from services.api.http.context import ContextDep
from services.api.http.openapi import binary, problems
from services.api.http.presenter import BASE_PATH
from services.api.http.request_body import ReceivedFile
from services.api.http.schemas import StyleBody, StyleUploadAnswer
from services.api.http.uploads import kept, receive_upload
from shared.errors import MediaError
from shared.media.style_sample import Style, read_style

DECODE_S = 120.0  # an hour of sound, on a busy machine
router = APIRouter(tags=["audio"])


@router.post(
    f"{BASE_PATH}/styles",
    status_code=HTTPStatus.CREATED,
    responses={**problems(400, 408, 413, 422, 503)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": binary(
                "audio/mpeg", "audio/wav", "audio/flac", "audio/ogg", "application/octet-stream"
            ),
        }
    },
    summary="Hand in a style sample; the body is the file",
)
async def hand_in_style(request: Request, context: ContextDep) -> StyleUploadAnswer:
    """Check and keep music for `audio_params.style_audio`; the same bytes are kept once."""
    bytes_max = context.settings.limits.style_bytes_max
    async with receive_upload(request, context, bytes_max=bytes_max) as received:
        style = await _heard(received, window_s=context.settings.pricing.style_window_s)
        key = await kept(context, received, content_type=style.content_type)
    return StyleUploadAnswer(
        style_audio=StyleBody(object=key),
        size_bytes=received.size_bytes,
        duration_s=style.duration_s,
        channels=style.channels,
        sample_rate_hz=style.sample_rate_hz,
    )


async def _heard(received: ReceivedFile, *, window_s: int) -> Style:
    try:
        async with asyncio.timeout(DECODE_S):
            return await asyncio.to_thread(read_style, received.path, window_s=window_s)
    except TimeoutError as error:
        told = f"takes longer than {DECODE_S:g} s to read: send a shorter piece"
        raise RequestInvalidError([("style_audio", told)]) from error
    except MediaError as error:
        raise RequestInvalidError([("style_audio", error.reason)]) from error
