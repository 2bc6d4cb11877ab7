"""The object store: one S3-compatible server that DVC, the data sensor and the streaming loader share.

Where it is stands in the section ``store`` of params.yaml. Who we are there never does: keys come from the environment
or from ``.store/credentials.json``, which git ignores and only its owner may read.
"""

import json
import os
import re
import secrets
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.commonconfig import ENABLED
from minio.error import InvalidResponseError, MinioException, S3Error
from minio.versioningconfig import SUSPENDED, VersioningConfig
from pydantic import field_validator, model_validator

from assets.atomic import atomic_file
from assets.errors import StoreError, message
from assets.section import Section

STORE_FOLDER = Path(".store")
CREDENTIALS = "credentials.json"
ACCESS_KEY, SECRET_KEY = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
_LOOPBACK = ("127.0.0.1", "localhost")
_NEVER_USED_PREFIX = ".clipfoundry-health/"


class StoreConfig(Section):
    """The section ``store`` of params.yaml. Never hashed: where bytes are kept does not change them."""

    server: Literal["seaweedfs", "minio", "external"]
    """seaweedfs and minio are started by us on this machine; external is any S3 server that runs already."""
    endpoint: str
    """Address of the S3 API, e.g. http://127.0.0.1:9300; for AWS https://s3.amazonaws.com."""
    bucket: str
    """Bucket that holds the DVC cache and everything else we store."""
    region: str
    """Region that requests are signed for; us-east-1 where the server has no regions."""

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ValueError("wanted http://HOST:PORT or https://HOST[:PORT] without a path")
        if parts.username or parts.password:
            raise ValueError("keys do not belong in the endpoint; use the environment or .store/credentials.json")
        return value.rstrip("/")

    @field_validator("bucket")
    @classmethod
    def _check_bucket(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", value):
            raise ValueError("wanted 3 to 63 lower-case letters, digits and hyphens")
        return value

    @model_validator(mode="after")
    def _check_embedded(self) -> "StoreConfig":
        parts = urlsplit(self.endpoint)
        if self.embedded and (parts.scheme != "http" or parts.hostname not in _LOOPBACK or parts.port is None):
            raise ValueError(f"server {self.server} runs on this machine only: endpoint must be http://127.0.0.1:PORT")
        return self

    @property
    def embedded(self) -> bool:
        """Whether we start and stop the server ourselves."""
        return self.server != "external"

    @property
    def port(self) -> int:
        """The TCP port of the endpoint."""
        parts = urlsplit(self.endpoint)
        return parts.port or (443 if parts.scheme == "https" else 80)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key pair and where it was found; the secret never shows in a log."""

    access_key: str
    secret_key: str = field(repr=False)
    source: str


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One entry of a listing."""

    name: str
    size: int
    etag: str


def _read_file(folder: Path) -> dict[str, Any]:
    path = folder / CREDENTIALS
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(message(f"{path} is not readable as JSON ({error})", fix="mend it or remove it")) from error


def _from_file(config: StoreConfig, folder: Path) -> Credentials | None:
    path = folder / CREDENTIALS
    entry = _read_file(folder).get(config.server)
    if entry is None:
        return None
    if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("access_key", "secret_key")):
        raise StoreError(message(f"{path}: {config.server} lacks access_key or secret_key", fix="mend the file"))
    return Credentials(entry["access_key"], entry["secret_key"], str(path))


def find_credentials(
    config: StoreConfig, folder: Path = STORE_FOLDER, environment: Mapping[str, str] = os.environ
) -> Credentials:
    """Find the key pair for a store.

    Args:
        config: The store. An embedded one uses the keys made for it and ignores the environment, so that keys meant
            for AWS cannot lock you out of your own machine's server.
        folder: Where ``credentials.json`` lives: server -> ``{access_key, secret_key}``.
        environment: The process environment; ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY`` win over the file.

    Returns:
        The keys.

    Raises:
        StoreError: There are none, or only half of a pair.
    """
    if config.embedded:
        if (found := _from_file(config, folder)) is not None:
            return found
        raise StoreError(
            message(
                f"no credentials for the {config.server} store in {folder / CREDENTIALS}",
                fix='run "clipfoundry store start", which makes them, or copy the file from the clone that runs it',
            )
        )
    access, secret = environment.get(ACCESS_KEY, ""), environment.get(SECRET_KEY, "")
    if bool(access) != bool(secret):
        lone, lacking = (ACCESS_KEY, SECRET_KEY) if access else (SECRET_KEY, ACCESS_KEY)
        raise StoreError(message(f"{lone} is set but {lacking} is not", wanted="both or neither", fix=f"set {lacking}"))
    if access:
        return Credentials(access, secret, f"environment variables {ACCESS_KEY} and {SECRET_KEY}")
    if (found := _from_file(config, folder)) is not None:
        return found
    raise StoreError(
        message(
            f"no credentials for the store at {config.endpoint}",
            wanted=f"{ACCESS_KEY} and {SECRET_KEY} in the environment, or an entry "
            f'"external": {{"access_key": .., "secret_key": ..}} in {folder / CREDENTIALS}',
            fix="export both variables and try again",
        )
    )


def has_credentials(config: StoreConfig, folder: Path = STORE_FOLDER) -> bool:
    """Say whether ``credentials.json`` has keys for this server."""
    return _from_file(config, folder) is not None


def make_credentials(config: StoreConfig, folder: Path = STORE_FOLDER) -> Credentials:
    """Return the keys of an embedded store, made at random the first time (file mode 0600)."""
    if (found := _from_file(config, folder)) is not None:
        return found
    entries: dict[str, Any] = _read_file(folder)
    entries[config.server] = {"access_key": secrets.token_hex(10), "secret_key": secrets.token_hex(20)}
    write_private(folder / CREDENTIALS, json.dumps(entries, indent=2) + "\n")
    return find_credentials(config, folder)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, atomically and never open to others in between."""
    with atomic_file(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)


class Store:
    """A connection to the object store that turns every failure into one sentence with a way out.

    Attributes:
        config: The section ``store``.
        credentials: The keys in use.
        client: The MinIO SDK's client for everything not wrapped here; use it inside :meth:`explained`.
    """

    def __init__(self, config: StoreConfig, credentials: Credentials) -> None:
        parts = urlsplit(config.endpoint)
        self.config = config
        self.credentials = credentials
        self.client = Minio(
            parts.netloc,
            access_key=credentials.access_key,
            secret_key=credentials.secret_key,
            secure=parts.scheme == "https",
            region=config.region,
            # the SDK's own pool waits five minutes and retries five times: far too patient for a server that is down
            http_client=urllib3.PoolManager(
                maxsize=8,  # reading and fetching ahead go on at once
                timeout=urllib3.Timeout(connect=5, read=120),
                # 500 is S3's "try again", which a server that has just been started may say to the first write
                retries=urllib3.Retry(total=4, connect=1, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
            ),
        )

    @contextmanager
    def explained(self) -> Generator[None]:
        """Turn what the SDK raises inside the block into :class:`StoreError`."""
        try:
            yield
        except S3Error as error:
            raise StoreError(self._explain(error.code or "unknown", error.message or "")) from error
        except (InvalidResponseError, ParseError) as error:
            raise StoreError(
                message(
                    f"{self.config.endpoint} answers, but not as an S3 server",
                    fix="check store.endpoint in params.yaml; something else may listen on that port",
                )
            ) from error
        except MinioException as error:
            raise StoreError(
                message(f"the store at {self.config.endpoint} failed: {error}", fix="try again")
            ) from error
        except urllib3.exceptions.HTTPError as error:
            start = (
                'run "clipfoundry store start"'
                if self.config.embedded
                else "start that server or correct store.endpoint in params.yaml"
            )
            raise StoreError(message(f"no answer from the store at {self.config.endpoint}", fix=start)) from error

    def _explain(self, code: str, text: str) -> str:
        endpoint, bucket, source = self.config.endpoint, self.config.bucket, self.credentials.source
        if code in ("SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidSecretKey"):
            part = "access key" if code == "InvalidAccessKeyId" else "secret key"
            if self.config.embedded:
                fix = 'restart it with "clipfoundry store stop" and "clipfoundry store start"'
            else:
                fix = "correct the keys there"
            return message(f"the store at {endpoint} refuses the {part} from {source}", code, "its own keys", fix)
        if code in ("AccessDenied", "Forbidden", "AllAccessDisabled"):
            return message(
                f"the store at {endpoint} denies the keys from {source} access to bucket {bucket!r}",
                code,
                "rights to list, read and write",
                "grant them, or name another bucket in store.bucket",
            )
        if code == "NoSuchBucket":
            return message(
                f"the store at {endpoint} has no bucket {bucket!r}",
                fix='correct store.bucket in params.yaml, or run "clipfoundry store configure", which creates it',
            )
        return message(f"the store at {endpoint} failed with {code}: {text}", fix="see the server's log")

    def health(self) -> None:
        """Check that the server answers, takes our keys and has our bucket.

        Raises:
            StoreError: Saying which of the three is wrong.
        """
        with self.explained():
            # a listing, unlike HEAD, answers errors with a body that names them
            next(iter(self.client.list_objects(self.config.bucket, prefix=_NEVER_USED_PREFIX)), None)

    def ensure_bucket(self) -> bool:
        """Create our bucket unless it exists.

        Returns:
            Whether it was created now.
        """
        with self.explained():
            try:
                next(iter(self.client.list_objects(self.config.bucket, prefix=_NEVER_USED_PREFIX)), None)
            except S3Error as error:
                if error.code != "NoSuchBucket":
                    raise
                self.client.make_bucket(self.config.bucket)
                return True
        return False

    def read_something(self) -> None:
        """Read the first byte of some object, if there is one: a server can list before it can read.

        Raises:
            StoreError: It cannot be read.
        """
        some = next((item for item in self.list_objects() if item.size), None)
        if some is not None:
            with self.explained():
                answer = self.client.get_object(self.config.bucket, some.name, length=1)
                answer.close()
                answer.release_conn()

    def list_objects(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield every object whose name starts with ``prefix``, in name order."""
        with self.explained():
            for item in self.client.list_objects(self.config.bucket, prefix=prefix, recursive=True):
                yield StoredObject(item.object_name or "", item.size or 0, (item.etag or "").strip('"'))

    @property
    def versioning(self) -> bool:
        """Whether the bucket keeps earlier versions of overwritten and deleted objects."""
        with self.explained():
            return self.client.get_bucket_versioning(self.config.bucket).status == ENABLED

    def set_versioning(self, on: bool) -> None:
        """Switch the keeping of earlier versions on, or suspend it (what is kept stays)."""
        with self.explained():
            self.client.set_bucket_versioning(self.config.bucket, VersioningConfig(ENABLED if on else SUSPENDED))


def open_store(config: StoreConfig, folder: Path = STORE_FOLDER) -> Store:
    """Connect to the store of params.yaml with the keys that belong to it; nothing is sent yet."""
    return Store(config, find_credentials(config, folder))
