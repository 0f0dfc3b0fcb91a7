"""Which store the settings mean: a bucket where one is named, else a folder with the same layout."""

from handoff.settings import Settings, SettingsError, name_of
from handoff.stores.contract import Store
from handoff.stores.folder import FolderStore


def open_store(settings: Settings) -> Store:
    """Raises SettingsError. Does not talk to the store yet."""
    try:
        if settings.bucket is None:
            return FolderStore(settings.bucket_dir, settings.s3_prefix)
        from handoff.stores.s3 import S3Settings, S3Store

        return S3Store(
            S3Settings(
                bucket=settings.bucket,
                endpoint_url=settings.s3_endpoint_url,
                public_endpoint_url=settings.s3_public_endpoint_url,
                prefix=settings.s3_prefix,
            )
        )
    except ValueError as error:
        raise SettingsError(f"{name_of('bucket')} or one of {name_of('s3_…')}: {error}") from None
