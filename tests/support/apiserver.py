"""A real kube-apiserver with kine as its store, built from their Go modules once and kept in the user's cache.

`python -m tests.support.apiserver` only builds.
"""

import base64
import http.client
import json
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import yaml

from stormfold.local.process import cache_dir, free_port, spawn
from tests.support.gobuild import CannotBuild, build

KINE = "v0.17.5"
ADMIN = "admin"
WORKER = "system:serviceaccount:storms:stormfold"
"""The service account of k8s/rbac.yaml."""
WRITER = "system:serviceaccount:storms:writer"
"""A service account without rights until a test binds a role."""
STRANGER = "system:serviceaccount:default:stranger"
"""A service account without rights."""
NOBODY = "nobody"
"""A user with a token that the server does not know."""
STORMS = "/apis/stormfold.dev/v1alpha1/namespaces/storms/alertstorms"
INCIDENTS = "/apis/stormfold.dev/v1alpha1/namespaces/storms/alertincidents"

_MODULE = Path(__file__).parent / "apiserver"
_K8S = Path(__file__).parents[2] / "k8s"
_GROUPS = {ADMIN: "system:masters"} | dict.fromkeys((WORKER, WRITER, STRANGER), "system:serviceaccounts")
_PATHS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "AlertStorm": "/apis/stormfold.dev/v1alpha1/namespaces/{}/alertstorms",
    "AlertIncident": "/apis/stormfold.dev/v1alpha1/namespaces/{}/alertincidents",
}


class Binaries(NamedTuple):
    apiserver: Path
    kine: Path


def program(name: str) -> Path:
    """Returns a cached program of Kubernetes, which is built first where it is missing. Raises `CannotBuild`."""
    found = re.search(r"\bk8s\.io/kubernetes (v\S+)", (_MODULE / "go.mod").read_text())
    assert found, "go.mod names the version"
    # Programs report this version; without it, clients take them for an old one.
    version = f"-ldflags=-s -w -X k8s.io/component-base/version.gitVersion={found[1]}"
    folder = cache_dir() / "kubernetes" / found[1] / name
    return build(folder / name, f"k8s.io/kubernetes/cmd/{name}", version, module=_MODULE)


def binaries() -> Binaries:
    """Returns the programs of an API server. Raises `CannotBuild`."""
    kine = build(cache_dir() / "kine" / KINE / "kine", f"github.com/k3s-io/kine@{KINE}")
    return Binaries(program("kube-apiserver"), kine)


class Answer(NamedTuple):
    status: int
    body: Any
    """Decoded JSON, else text; bytes if `raw` was requested."""


class ApiServer:
    """An API server on a free port of 127.0.0.1. Its data are in `folder` and survive `kill` and `restart`."""

    host = "127.0.0.1"
    place: Sequence[str] = ("--bind-address=127.0.0.1", "--disable-admission-plugins=ServiceAccount")
    """The flags of a server that has no controllers and no nodes."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._folder = folder
        self._flags = flags
        self._port, self._store_port = free_port(), free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._tokens = {identity: secrets.token_hex(16) for identity in (*_GROUPS, NOBODY)}
        self._tokens_file = self._written(
            "tokens.csv",
            "".join(f'{self._tokens[user]},{user},{user},"{group}"\n' for user, group in _GROUPS.items()),
        )
        self._signing_key = self._written("service-account.key", _private_key())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # A graceful stop takes seconds, and the data are not needed.
        self.kill()

    @property
    def address(self) -> str:
        return f"https://{self.host}:{self._port}"

    @property
    def certificates(self) -> Path:
        return self._folder / "certificates" / "apiserver.crt"

    def start(self) -> None:
        """Starts both processes and waits until requests are answered."""
        try:
            self.start_store()
            self._spawn(
                "kube-apiserver",
                str(binaries().apiserver),
                f"--etcd-servers=http://127.0.0.1:{self._store_port}",
                f"--cert-dir={self._folder / 'certificates'}",
                f"--secure-port={self._port}",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--authorization-mode=RBAC",
                *self.place,
                "--service-account-issuer=https://127.0.0.1/",
                f"--service-account-key-file={self._signing_key}",
                f"--service-account-signing-key-file={self._signing_key}",
                f"--token-auth-file={self._tokens_file}",
                *self._flags,
            )
            self.wait_ready()
        except BaseException:
            self.kill()
            raise

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Waits until the condition holds; an `OSError` counts as False. Raises `RuntimeError` after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except OSError:
                pass
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "".join(f"\n{log.name}:\n{log.read_text()[-2000:]}" for log in self._folder.glob("*.log"))
                raise RuntimeError(f"{f'{ended} ended' if ended else f'not ready in {seconds} s'}{logs}")
            time.sleep(0.05)

    def wait_ready(self) -> None:
        """Waits until requests are answered."""
        self.wait(lambda: self.request("GET", "/readyz").status == 200)

    def start_store(self) -> None:
        """Starts kine alone, after `kill_store`."""
        self._spawn(
            "kine",
            str(binaries().kine),
            f"--endpoint=sqlite://{self._folder / 'store.db'}?_journal=WAL&cache=shared&_busy_timeout=30000",
            f"--listen-address=tcp://127.0.0.1:{self._store_port}",
            "--metrics-bind-address=0",
        )
        self.wait(lambda: _listens(self._store_port))

    def kill_store(self) -> None:
        """Ends kine with SIGKILL. The API server stays, and answers 5xx or not at all."""
        process = self._processes.pop("kine")
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Ends both processes, the API server first, because it writes to the store until it ends."""
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def kill(self) -> None:
        """Ends both processes with SIGKILL."""
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._processes.clear()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freezes the API server: it accepts connections and does not answer."""
        process = self._processes["kube-apiserver"]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stops the server if it runs, and starts it at the same address with the same data."""
        self.stop()
        self.start()

    def kubeconfig(self, identity: str = ADMIN) -> Path:
        """Returns a kubeconfig file with the identity's token."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "test", "cluster": {"server": self.address, "certificate-authority": str(self.certificates)}}
            ],
            "users": [{"name": identity, "user": {"token": self._tokens[identity]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": identity}}],
            "current-context": "test",
        }
        return self._written(f"kubeconfig-{identity.replace(':', '-')}", yaml.safe_dump(config))

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        identity: str = ADMIN,
        content_type: str = "application/json",
        accept: str = "application/json",
        raw: bool = False,
    ) -> Answer:
        """Sends one request. A body that is not bytes is sent as JSON; with `raw` the response is returned as bytes.

        Raises `OSError` while the server is unavailable.
        """
        context = ssl.create_default_context(cafile=self.certificates)
        connection = http.client.HTTPSConnection(self.host, self._port, context=context, timeout=30)
        try:
            connection.request(
                method,
                path,
                body if body is None or isinstance(body, bytes) else json.dumps(body).encode(),
                {
                    "Authorization": f"Bearer {self._tokens[identity]}",
                    "Content-Type": content_type,
                    "Accept": accept,
                },
            )
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if raw:
            return Answer(response.status, content)
        is_json = response.headers.get_content_type() == "application/json"
        return Answer(response.status, json.loads(content) if is_json else content.decode())

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Applies manifests as the administrator."""
        for manifest in manifests:
            path = _PATHS[manifest["kind"]].format(manifest["metadata"].get("namespace"))
            answer = self.request(
                "PATCH",
                f"{path}/{manifest['metadata']['name']}?fieldManager=tests&force=true&fieldValidation=Strict",
                json.dumps(manifest, ensure_ascii=False).encode(),
                content_type="application/apply-patch+yaml",
            )
            assert answer.status in (200, 201), answer

    def install(self) -> None:
        """Applies k8s/crd.yaml and k8s/rbac.yaml, and waits until storms and incidents are served."""
        for file in ("crd.yaml", "rbac.yaml"):
            self.apply(*yaml.safe_load_all((_K8S / file).read_text()))
        self.wait(lambda: all(self.request("GET", path).status == 200 for path in (STORMS, INCIDENTS)))

    def uninstall(self, seconds: float = 60, path: str = STORMS) -> None:
        """Deletes a CRD if it exists, and waits until its resources are no longer served: all are deleted first."""
        plural = path.rpartition("/")[2]
        self.request("DELETE", f"{_PATHS['CustomResourceDefinition']}/{plural}.stormfold.dev")
        self.wait(lambda: self.request("GET", path).status == 404, seconds)

    def annotate(self, name: str, key: str, path: str = STORMS) -> bool:
        """Annotates a resource; returns False if it does not exist."""
        change = {"metadata": {"annotations": {key: "true"}}}
        answer = self.request("PATCH", f"{path}/{name}", change, content_type="application/merge-patch+json")
        assert answer.status in (200, 404), answer
        return answer.status == 200

    def storms(self, namespace: str = "storms") -> dict[str, dict[str, Any]]:
        """Returns all AlertStorms of a namespace by name."""
        return self._resources("AlertStorm", namespace)

    def incidents(self, namespace: str = "storms") -> dict[str, dict[str, Any]]:
        """Returns all AlertIncidents of a namespace by name."""
        return self._resources("AlertIncident", namespace)

    def _resources(self, kind: str, namespace: str) -> dict[str, dict[str, Any]]:
        answer = self.request("GET", _PATHS[kind].format(namespace))
        assert answer.status == 200, answer
        return {item["metadata"]["name"]: item for item in answer.body["items"]}

    def _spawn(self, name: str, *command: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = spawn(command, log, self._folder)

    def _written(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.write_text(text)
        path.chmod(0o600)
        return path


def _listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def _private_key() -> str:
    """Returns a P-256 key in PEM: the DER of SEC 1 around a random scalar, without the optional public key."""
    scalar = secrets.token_bytes(31).rjust(32, b"\1")
    der = bytes.fromhex("303102010104 20") + scalar + bytes.fromhex("a00a06082a8648ce3d030107")
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n"


if __name__ == "__main__":
    try:
        print(*binaries(), sep="\n")
    except CannotBuild as error:
        sys.exit(str(error))
