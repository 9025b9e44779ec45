"""The common part of providers without a remote service: free, never paused, not limited.

The id of a prediction is derived from its request, so a prediction cannot be lost.
"""

from datetime import datetime

from services.generator.providers import CompositionRequest, mp3
from shared.errors import ProviderRejectedError


class OfflineProvider:
    """A `MusicProvider` except for `collect`."""

    name: str

    @property
    def paused(self) -> str | None:
        """Return None: this provider is never paused."""
        return None

    async def check(self) -> None:
        """Do nothing: there is no remote service."""

    async def ready(self, *, within_s: float) -> None:
        """Return at once: there is no rate limit."""

    async def submit(self, request: CompositionRequest) -> str:
        """Return the id derived from the request; nothing runs before `collect`."""
        return mp3.prediction_id(self.name, request)

    async def find(
        self,
        request: CompositionRequest,
        *,
        since: datetime | None = None,  # noqa: ARG002 - the id is derived, not searched
    ) -> str | None:
        """Return the same id as `submit`."""
        return mp3.prediction_id(self.name, request)

    async def cancel(self, prediction_id: str) -> None:
        """Do nothing: a prediction only runs while it is collected."""

    def nudge(self, prediction_id: str) -> None:
        """Do nothing: nothing is polled."""

    async def close(self) -> None:
        """Do nothing: no resource is held open."""

    async def check_id(self, prediction_id: str, request: CompositionRequest) -> None:
        """Return if the prediction belongs to the request.

        Raises:
            ProviderRejectedError: it does not.
        """
        if prediction_id != await self.submit(request):
            raise ProviderRejectedError(
                f"prediction {prediction_id} does not belong to this request"
            )
