"""Opening: the store that the settings name, for each `__main__`."""

from shared.settings import StoreSettings
from shared.storage import ObjectStore
from shared.storage.filesystem import FolderStore


def open_store(settings: StoreSettings) -> ObjectStore:
    """A folder when one is set (it is made if missing), a bucket otherwise; nothing is asked yet.

    Raises:
        SettingsError: neither a folder nor a server's keys are set.
    """
    if settings.folder is not None:
        return FolderStore(settings.folder)
    # a fifth of the time that a command takes to start; a folder need not wait for it
    from shared.storage.s3.store import S3Store  # noqa: PLC0415

    return S3Store(settings)
