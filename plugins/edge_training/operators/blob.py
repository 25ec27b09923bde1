"""Step 1 of the pattern: the data that is to be trained on, verified where it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import BaseOperator

from edge_training import blob_checks
from edge_training.exceptions import DataVerificationError
from edge_training.records import BlobItem, BlobManifest, JsonObject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from airflow.sdk import Context

    from edge_training.hooks.stack_hub_blob import StackHubBlobHook, StoredBlob

Result = TypeVar("Result")

# Few enough for a Stack Hub that has other work, and for the client's pool of ten connections.
_PARALLEL = 8
_SCHEMA_BYTES = 1024 * 1024


class VerifyBlobDataOperator(BaseOperator):
    """Checks that the training blobs are there, whole, recent and of the expected shape, and pins them.

    Training blobs are those below the prefix whose names end with the suffix. All problems that are found are told together. What is
    returned, a :class:`BlobManifest`, pins every blob by ETag and hash, so that the run trains on exactly what was verified.

    :param container: the blob container.
    :param prefix: what the training blobs' names begin with, such as ``"breast-cancer/"``.
    :param schema_blob: the blob with the Table Schema that every header must equal.
    :param minimum_blobs: at least so many training blobs.
    :param minimum_bytes: at least so many bytes in all.
    :param maximum_bytes: at most so many bytes in all, or ``None``.
    :param maximum_age: the newest blob is at most so old, or ``None``.
    :param suffix: what the training blobs' names end with.
    :param blob_conn_id: the Airflow connection to the blob store.
    :raises DataVerificationError: when the blobs are not what was promised.
    :raises ServiceError: when the store refuses or does not answer, or a blob changes while it is read.
    """

    template_fields = ("container", "prefix", "schema_blob", "suffix", "blob_conn_id")
    ui_color = "#dbeafe"

    def __init__(
        self,
        *,
        container: str,
        prefix: str,
        schema_blob: str,
        minimum_blobs: int = 1,
        minimum_bytes: int = 0,
        maximum_bytes: int | None = None,
        maximum_age: timedelta | None = None,
        suffix: str = ".csv",
        blob_conn_id: str = "stack_hub_blob",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.container = container
        self.prefix = prefix
        self.schema_blob = schema_blob
        self.minimum_blobs = minimum_blobs
        self.minimum_bytes = minimum_bytes
        self.maximum_bytes = maximum_bytes
        self.maximum_age = maximum_age
        self.suffix = suffix
        self.blob_conn_id = blob_conn_id

    def execute(self, context: Context) -> JsonObject:  # noqa: ARG002 - Airflow's signature
        """Verify the blobs and return their manifest."""
        from edge_training.hooks.stack_hub_blob import StackHubBlobHook

        hook = StackHubBlobHook(self.blob_conn_id)
        now = datetime.now(UTC)
        blobs = [blob for blob in hook.list_blobs(self.container, self.prefix) if blob.name.endswith(self.suffix)]
        self.log.info("%d training blobs in container '%s' at %s:", len(blobs), self.container, hook.account_url)
        for line in blob_checks.blob_table(blobs, now):
            self.log.info("  %s", line)
        columns = blob_checks.parse_schema(hook.read(self.container, self.schema_blob, _SCHEMA_BYTES), self.schema_blob)
        problems = blob_checks.listing_problems(blobs, self._limits(), now) + self._header_problems(
            hook, blobs, columns
        )
        if problems:
            raise DataVerificationError(
                f"The blobs '{self.prefix}*{self.suffix}' in container '{self.container}' at {hook.account_url} are not what the site "
                f"promised: {blob_checks.problems_text(problems)}."
            )
        manifest = self._manifest(hook, blobs, columns)
        self.log.info(
            "Verified %d blobs with %s and %d columns; fingerprint %s",
            len(blobs),
            blob_checks.size_text(manifest.total_bytes),
            len(columns),
            manifest.fingerprint,
        )
        return manifest.to_json()

    def _limits(self) -> blob_checks.BlobLimits:
        return blob_checks.BlobLimits(self.minimum_blobs, self.minimum_bytes, self.maximum_bytes, self.maximum_age)

    def _header_problems(
        self, hook: StackHubBlobHook, blobs: Sequence[StoredBlob], columns: Sequence[str]
    ) -> list[str]:
        size = blob_checks.HEADER_BYTES

        def check(blob: StoredBlob) -> list[str]:
            head = hook.read_head(self.container, blob.name, size, blob.etag)
            return blob_checks.header_problems(blob.name, head, complete=blob.size <= size, expected=columns)

        return [problem for found in _in_parallel(check, [blob for blob in blobs if blob.size]) for problem in found]

    def _manifest(self, hook: StackHubBlobHook, blobs: Sequence[StoredBlob], columns: Sequence[str]) -> BlobManifest:
        def pin(blob: StoredBlob) -> BlobItem:
            return BlobItem(
                name=blob.name,
                size=blob.size,
                etag=blob.etag,
                content_hash=hook.hash_of(self.container, blob),
                last_modified=blob.last_modified.isoformat(),
            )

        return BlobManifest(
            account_url=hook.account_url,
            container=self.container,
            prefix=self.prefix,
            columns=tuple(columns),
            blobs=tuple(_in_parallel(pin, blobs)),
        )


def _in_parallel(work: Callable[[StoredBlob], Result], blobs: Sequence[StoredBlob]) -> list[Result]:
    """Return the results in the blobs' order; the first error ends the rest."""
    pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="blob")
    try:
        return list(pool.map(work, blobs))
    finally:
        pool.shutdown(cancel_futures=True)
