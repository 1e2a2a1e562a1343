"""Storms as AlertStorm resources: created with POST under their deterministic names, so that a repeat answers 409.

Server-side apply would answer 500 to what can never fit, refuse emoji from this client, and need `patch` besides.
"""

import os
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import orjson
import yaml
from kubernetes.aio import client, config

from stormfold.errors import ActionRequired, DeadLetter, Retry, StormfoldError
from stormfold.manifest import to_manifest
from stormfold.sinks import KEEP_ANNOTATION, LAST_SEEN_LABEL, Gone, Outcome, identity
from stormfold.sinks.retention import surplus
from stormfold.storm import Aggregate, Example

GROUP, VERSION, PLURAL = "stormfold.dev", "v1alpha1", "alertstorms"
MAX_BYTES = 1_000_000
"""Largest manifest that is sent, as JSON: etcd takes 1.5 MiB with the server's own fields."""
REQUEST_SECONDS = 15.0
"""Time for one request; a write that was cut off is found by its name when it is repeated."""
PAGE = 500
"""Storms in one page of a listing."""

_ACCESS = "Set STORMFOLD_KUBECONFIG to a kubeconfig that works, or run in a pod with a service account."
_CRD = "Apply k8s/crd.yaml."
_WRITER = "Bind the role stormfold-writer of k8s/rbac.yaml in that namespace."
_RETENTION = "Bind the role stormfold-retention of k8s/rbac.yaml in that namespace."
_TOO_LARGE = ("message larger than max", "request is too large")
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class _Cause(msgspec.Struct):
    reason: str = ""
    field: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    kind: str = ""
    causes: list[_Cause] = []


class _Status(msgspec.Struct):
    """What the API server says of an error."""

    reason: str = ""
    message: str = ""
    details: _Details | None = None

    @property
    def causes(self) -> list[_Cause]:
        return self.details.causes if self.details else []


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    namespace: str
    uid: str
    resource_version: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletion_timestamp: str | None = None


class _Item(msgspec.Struct):
    metadata: _Metadata


class _ListMetadata(msgspec.Struct):
    next: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    items: list[_Item] | None
    """The API server says null of a list with nothing in it."""
    metadata: _ListMetadata


class _Stored(NamedTuple):
    namespace: str
    name: str
    last_seen: int
    uid: str
    resource_version: str


class _Answer(NamedTuple):
    status: int
    body: bytes
    headers: Mapping[str, str]


class KubernetesSink:
    """Creates AlertStorms; needs `create` for that, and `list` and `delete` for retention only.

    Without `kubeconfig` the service account of the pod is used, outside of a cluster kubectl's own configuration.
    """

    concurrency = 8
    """Measured: more at a time bring no more a second."""

    def __init__(self, kubeconfig: Path | None, context: str | None, namespaces: Iterable[str]) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._namespaces = tuple(sorted(set(namespaces)))
        self._configuration = client.Configuration()
        self._api: client.CustomObjectsApi | None = None
        self._stale = True

    async def start(self) -> None:
        for namespace in self._namespaces:
            answer = await self._create(_probe(namespace), namespace, dry_run="All")
            if answer.status != 201:
                error = sort_error(answer.status, answer.body, answer.headers)
                if isinstance(error, DeadLetter):
                    raise ActionRequired(f"the AlertStorm in the cluster is another one: {error}", hint=_CRD)
                raise error

    async def write(self, manifest: dict[str, Any], key: str) -> Outcome:
        namespace, _ = identity(manifest, key)
        try:
            size = len(orjson.dumps(manifest))
        except TypeError as error:
            raise DeadLetter(f"manifest is not JSON: {error}") from error
        if size > MAX_BYTES:
            raise DeadLetter(f"manifest of {size} bytes is larger than {MAX_BYTES}")
        answer = await self._create(manifest, namespace)
        if answer.status == 201:
            return Outcome.CREATED
        if answer.status == 409 and _status(answer.body).reason == "AlreadyExists":
            return Outcome.EXISTS
        raise sort_error(answer.status, answer.body, answer.headers)

    async def retain(self, now: int, retention: int, max_storms: int, gone: Gone) -> None:
        storms: list[_Stored] = []
        for namespace in self._namespaces:
            async for page in self._stored(namespace):
                storms += page
                gone(0)
        for storm in surplus(storms, now, retention, max_storms):
            gone(await self._delete(storm))

    async def close(self) -> None:
        if self._api:
            await self._api.api_client.close()
            self._api = None

    async def _create(self, manifest: dict[str, Any], namespace: str, dry_run: str | None = None) -> _Answer:
        return await self._call(
            "create",
            namespace=namespace,
            body=manifest,
            dry_run=dry_run,
            field_manager="stormfold",
            # Unknown fields would be dropped in silence otherwise.
            field_validation="Strict",
        )

    async def _stored(self, namespace: str) -> AsyncIterator[list[_Stored]]:
        """Storms that retention may delete, page by page."""
        following: str | None = None
        while following != "":
            answer = await self._call(
                "list",
                namespace=namespace,
                limit=PAGE,
                _continue=following,
                _headers={"Accept": _METADATA_ONLY},
            )
            if answer.status != 200:
                raise sort_error(answer.status, answer.body, answer.headers, _RETENTION)
            try:
                page = msgspec.json.decode(answer.body, type=_Page)
            except msgspec.DecodeError as error:
                raise Retry(f"{self._configuration.host} answered with another thing than a list: {error}") from error
            yield [
                _Stored(namespace, metadata.name, int(seen), metadata.uid, metadata.resource_version)
                for metadata in (item.metadata for item in page.items or ())
                if (seen := metadata.labels.get(LAST_SEEN_LABEL, "")).isdecimal()
                and KEEP_ANNOTATION not in metadata.annotations
                and not metadata.deletion_timestamp
            ]
            following = page.metadata.next

    async def _delete(self, storm: _Stored) -> bool:
        # Whoever annotated it since it was listed has changed its version: the API server then refuses with 409.
        # `deletecollection` has no such condition, nor can it select by annotation.
        conditions = client.V1Preconditions(uid=storm.uid, resource_version=storm.resource_version)
        answer = await self._call(
            "delete",
            namespace=storm.namespace,
            name=storm.name,
            body=client.V1DeleteOptions(preconditions=conditions),
        )
        if answer.status in (404, 409):
            return False
        if answer.status not in (200, 202):
            raise sort_error(answer.status, answer.body, answer.headers, _RETENTION)
        return True

    async def _call(self, verb: str, **arguments: Any) -> _Answer:
        """One request; raises `ActionRequired` or `Retry` where there was no answer."""
        api = await self._connected()
        try:
            response = await getattr(api, f"{verb}_namespaced_custom_object_without_preload_content")(
                group=GROUP, version=VERSION, plural=PLURAL, _request_timeout=REQUEST_SECONDS, **arguments
            )
            async with response:
                answer = _Answer(response.status, await response.read(), response.headers)
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise ActionRequired(
                f"{self._configuration.host}: {error}", hint="Check the certificate authority in the kubeconfig."
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Retry(f"{self._configuration.host}: {str(error) or type(error).__name__}") from error
        # A token may have expired, and a new one lie ready.
        self._stale = self._stale or answer.status == 401
        return answer

    async def _connected(self) -> client.CustomObjectsApi:
        try:
            if self._stale:
                await self._load()
                self._stale = False
            if self._api is None:
                self._api = client.CustomObjectsApi(client.ApiClient(self._configuration))
        except (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, LookupError) as error:
            raise ActionRequired(f"no way to the cluster: {error}", hint=_ACCESS) from error
        return self._api

    async def _load(self) -> None:
        if self._kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(self._configuration)
            return
        files = str(self._kubeconfig or config.KUBE_CONFIG_DEFAULT_LOCATION)
        # The client would go on without any, and fail on a None.
        if not _any_exists(files):
            raise ActionRequired(f"no kubeconfig at {files}", hint=_ACCESS)
        await config.load_kube_config(files, self._context, self._configuration, persist_config=False)


def _any_exists(files: str) -> bool:
    return any(Path(file).expanduser().is_file() for file in files.split(os.pathsep))


def sort_error(status: int, body: bytes, headers: Mapping[str, str], grant: str = _WRITER) -> StormfoldError:
    """The error that an answer stands for; `grant` is the advice where permission is missing.

    Bodies are mostly a `Status` as JSON, but plain text from the router and from filters.
    """
    said = _status(body)
    message = f"{status} {said.reason}: {said.message}".strip(" :")[:1000]
    if status in (400, 413, 415, 422) or (status == 500 and any(text in said.message for text in _TOO_LARGE)):
        return DeadLetter(message)
    if status == 401:
        return ActionRequired(message, hint="Renew the credentials in the kubeconfig.")
    if status == 403:
        if any(cause.reason == "NamespaceTerminating" for cause in said.causes):
            return ActionRequired(message, hint="Wait until the namespace is gone, then create it again.")
        if "exceeded quota" in said.message:
            return ActionRequired(
                message, hint="Raise the namespace's ResourceQuota, or keep fewer storms (`max_storms`)."
            )
        return ActionRequired(message, hint=grant)
    if status == 404 and said.details and said.details.kind == "namespaces":
        return ActionRequired(message, hint="Create the namespace (k8s/rbac.yaml creates `storms`).")
    if status in (404, 405):
        # 405: the definition is being deleted.
        return ActionRequired(f"{message} (no AlertStorm in the cluster)", hint=_CRD)
    after = headers.get("Retry-After", "")
    return Retry(message, after=float(after) if after.isdecimal() else None)


def _status(body: bytes) -> _Status:
    try:
        return msgspec.json.decode(body, type=_Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Status(message=body[:1000].decode(errors="replace").strip())


def _probe(namespace: str) -> dict[str, Any]:
    """A storm that fits, for a dry run."""
    return to_manifest(
        Aggregate(
            name="stormfold-probe",
            namespace=namespace,
            aggregate_class="Storm",
            route="probe",
            group_labels={},
            pattern="{}",
            severity="none",
            alert_count=1,
            distinct=1,
            resolved=0,
            resource_count=0,
            resources=(),
            example=Example(),
            first_seen=0,
            last_seen=0,
            close_reason="Inactivity",
            late=0,
            truncated=False,
        )
    )
