"""Resources in a cluster, created with POST under deterministic names: to repeat one is answered with 409.

Server-side apply would answer 500 to resources that are too large, refuse emoji from this client, and need `patch`.
"""

import os
import ssl
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec
import orjson
import structlog
import yaml
from kubernetes.aio import client, config

from stormfold.errors import ActionRequired, DeadLetter, Retry, StormfoldError
from stormfold.sinks import KEEP_ANNOTATION, LAST_SEEN_LABEL, OnDeleted, Outcome, validate_identity
from stormfold.sinks.kinds import STORMS, ResourceKind
from stormfold.sinks.responses import CRD_HINT, PROXY_HINT, WRITER_HINT, Denied, response_error, response_reason
from stormfold.sinks.retention import select_expired
from stormfold.tls import ssl_cause

log = structlog.get_logger(__name__)

GROUP, VERSION = "stormfold.dev", "v1alpha1"
MAX_BYTES = 1_000_000
"""Largest manifest that is sent, as JSON: etcd takes 1.5 MiB, including the fields that the server adds."""
REQUEST_SECONDS = 15.0
"""Timeout of one request. If a write is cut off, the repeat finds the resource by its name."""
PAGE_SIZE = 500
"""Resources in one page of a listing."""

_ACCESS = "set STORMFOLD_KUBECONFIG to a kubeconfig that works, or run in a pod with a service account"
_RETENTION = "bind the role stormfold-retention of k8s/rbac.yaml in that namespace"
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class _Stored(NamedTuple):
    namespace: str
    name: str
    last_seen: int
    uid: str
    resource_version: str


class _Response(NamedTuple):
    status: int
    body: bytes
    headers: Mapping[str, str]


class KubernetesSink:
    """Creates resources of one kind. Needs the permission `create`, and for retention `list` and `delete`.

    Without `kubeconfig` it uses the service account of the pod, and outside a cluster the configuration of kubectl.
    """

    concurrency = 8
    """Measured: more parallel writes do not create more resources a second."""

    def __init__(self, kubeconfig: Path | None, context: str | None, kind: ResourceKind = STORMS) -> None:
        self._kind = kind
        self._kubeconfig = kubeconfig
        self._context = context
        self._configuration = client.Configuration()
        self._api: client.CustomObjectsApi | None = None
        self._stale = True
        """Whether the credentials must be loaded before the next request."""

    async def check(self, namespace: str) -> None:
        try:
            await self._create(self._kind.probe(namespace), namespace, dry_run="All")
        except Denied as error:
            # Policies judge content, and that of a probe is not that of a real resource. Rights are sufficient.
            log.warning(
                "a policy denies the test resource", namespace=namespace, kind=self._kind.name, error=str(error)
            )
        except DeadLetter as error:
            message = f"the {self._kind.name} definition in the cluster differs: {error}"
            raise ActionRequired(message, CRD_HINT) from error

    async def write(self, manifest: dict[str, Any], key: str) -> Outcome:
        namespace, _ = validate_identity(manifest, key)
        try:
            size = len(orjson.dumps(manifest))
        except TypeError as error:
            raise DeadLetter(f"manifest is not JSON: {error}") from error
        if size > MAX_BYTES:
            raise DeadLetter(f"manifest of {size} bytes is larger than {MAX_BYTES}")
        return await self._create(manifest, namespace)

    async def delete_expired(
        self, namespaces: Iterable[str], now: int, retention: int, limit: int, on_deleted: OnDeleted
    ) -> None:
        failed: list[StormfoldError] = []
        for namespace in namespaces:
            try:
                stored: list[_Stored] = []
                async for page in self._list(namespace):
                    stored += page
                    on_deleted(0)
                for resource in select_expired(stored, now, retention, limit):
                    on_deleted(await self._delete(resource))
            except StormfoldError as error:
                # A namespace without rights must not fill up the others.
                failed.append(error)
        if failed:
            raise failed[0]

    async def close(self) -> None:
        if self._api:
            await self._api.api_client.close()
            self._api = None

    async def _create(self, manifest: dict[str, Any], namespace: str, dry_run: str | None = None) -> Outcome:
        response = await self._call(
            "create",
            (201, 409),
            WRITER_HINT,
            namespace=namespace,
            body=manifest,
            dry_run=dry_run,
            field_manager="stormfold",
            # By default the server drops unknown fields silently.
            field_validation="Strict",
        )
        if response.status == 201:
            return Outcome.CREATED
        if response_reason(response.body) == "AlreadyExists":
            return Outcome.EXISTS
        raise response_error(response.status, response.body, response.headers, WRITER_HINT, self._kind)

    async def _list(self, namespace: str) -> AsyncIterator[list[_Stored]]:
        """Pages of resources that retention may delete."""
        next_page: str | None = None
        while next_page != "":
            response = await self._call(
                "list",
                (200,),
                _RETENTION,
                namespace=namespace,
                limit=PAGE_SIZE,
                _continue=next_page,
                _headers={"Accept": _METADATA_ONLY},
            )
            try:
                page = msgspec.json.decode(response.body)
                next_page = page["metadata"].get("continue", "")
                # The API server answers null if the list is empty.
                found = [stored for item in page["items"] or () if (stored := _stored(namespace, item["metadata"]))]
            except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
                raise Retry(f"{self._configuration.host}: the response is not a list: {error!r}") from error
            yield found

    async def _delete(self, resource: _Stored) -> bool:
        """Returns whether it was deleted; not if it was changed or deleted since it was listed."""
        # An annotation changes the version, and the API server refuses with 409. `deletecollection` has no such
        # condition and cannot select by annotation.
        conditions = client.V1Preconditions(uid=resource.uid, resource_version=resource.resource_version)
        response = await self._call(
            "delete",
            (200, 202, 404, 409),
            _RETENTION,
            namespace=resource.namespace,
            name=resource.name,
            body=client.V1DeleteOptions(preconditions=conditions),
        )
        return response.status in (200, 202)

    async def _call(self, verb: str, expected: Collection[int], grant: str, **arguments: Any) -> _Response:
        """Sends one request. Raises an error if no response arrives, or one with a status that is not `expected`.

        `grant` is the hint if the permission is missing.
        """
        api = await self._connect()
        host = self._configuration.host
        try:
            pending = await getattr(api, f"{verb}_namespaced_custom_object_without_preload_content")(
                group=GROUP, version=VERSION, plural=self._kind.plural, _request_timeout=REQUEST_SECONDS, **arguments
            )
            async with pending:
                response = _Response(pending.status, await pending.read(), pending.headers)
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            untrusted = isinstance(ssl_cause(error), ssl.SSLCertVerificationError)
            hint = "check the certificate authority in the kubeconfig" if untrusted else PROXY_HINT
            raise ActionRequired(f"{host}: {error}", hint) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Retry(f"{host}: {str(error) or type(error).__name__}") from error
        # The token may have expired, and a new one may be in its file.
        self._stale = self._stale or response.status == 401
        if response.status not in expected:
            raise response_error(response.status, response.body, response.headers, grant, self._kind)
        return response

    async def _connect(self) -> client.CustomObjectsApi:
        try:
            if self._stale:
                await self._load_credentials()
                self._stale = False
            if self._api is None:
                self._configuration.proxy = self._configuration.proxy or _proxy_of_environment(self._configuration.host)
                # By default aiohttp looks for a proxy in the environment, and in ~/.netrc for a password that would
                # contradict the token, before each request.
                self._configuration.client_session_kwargs = {"trust_env": False}
                self._api = client.CustomObjectsApi(client.ApiClient(self._configuration))
        except (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, LookupError) as error:
            raise ActionRequired(f"cannot load credentials for the cluster: {error}", _ACCESS) from error
        return self._api

    async def _load_credentials(self) -> None:
        if self._kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(self._configuration)
            return
        files = str(self._kubeconfig or config.KUBE_CONFIG_DEFAULT_LOCATION)
        # Without a file the client continues and fails on a None later.
        if not _any_exists(files):
            raise ActionRequired(f"there is no kubeconfig at {files}", _ACCESS)
        await config.load_kube_config(files, self._context, self._configuration, persist_config=False)


def _proxy_of_environment(url: str) -> str | None:
    """The proxy for a URL according to `HTTPS_PROXY` and `NO_PROXY`; None also for one that is reached over TLS.

    Such a proxy would have to have a certificate of the cluster's authority.
    """
    address = urlsplit(url)
    proxy = None if proxy_bypass(address.hostname or "") else getproxies().get(address.scheme)
    return None if proxy and urlsplit(proxy).scheme == "https" else proxy


def _stored(namespace: str, metadata: dict[str, Any]) -> _Stored | None:
    """A resource that retention may delete; None if it is kept, being deleted, or not from stormfold."""
    seen = metadata.get("labels", {}).get(LAST_SEEN_LABEL, "")
    if not seen.isdecimal() or KEEP_ANNOTATION in metadata.get("annotations", {}) or metadata.get("deletionTimestamp"):
        return None
    return _Stored(namespace, metadata["name"], int(seen), metadata["uid"], metadata["resourceVersion"])


def _any_exists(files: str) -> bool:
    return any(Path(file).expanduser().is_file() for file in files.split(os.pathsep))
