"""Opens the object store that the settings name."""

from shared.settings import StoreSettings
from shared.storage import ObjectStore
from shared.storage.filesystem import FolderStore


def open_store(settings: StoreSettings) -> ObjectStore:
    """Return the folder store if a folder is set, else the S3 store; does not connect.

    Raises:
        SettingsError: neither a folder nor the keys of a server are set.
    """
    if settings.folder is not None:
        return FolderStore(settings.folder)
    # importing it takes a fifth of a command's start, which a folder store does not need
    from shared.storage.s3.store import S3Store  # noqa: PLC0415

    return S3Store(settings)
