"""The Kubernetes sink against a real API server, with the worker's own rights."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stormfold.errors import ActionRequired, DeadLetter, Retry
from stormfold.sinks import Outcome, Sink
from stormfold.sinks import kubernetes as sinks
from stormfold.sinks.kubernetes import MAX_BYTES, KubernetesSink
from tests.support.apiserver import ADMIN, NOBODY, STORMS, STRANGER, WORKER, WRITER, ApiServer
from tests.support.sinks import HOUR, NOW, SinkSuite, retained
from tests.support.storms import NAME, manifest


class Cluster:
    def __init__(self, server: ApiServer, identity: str = WORKER) -> None:
        self.server = server
        self.sink: Sink = KubernetesSink(server.kubeconfig(identity), None, ["storms"])

    def stored(self) -> dict[str, dict[str, Any]]:
        return self.server.storms()

    def annotate(self, name: str, key: str) -> None:
        self.server.annotate(name, key)


@pytest.fixture
async def place(storms: ApiServer) -> AsyncIterator[Cluster]:
    cluster = Cluster(storms)
    yield cluster
    await cluster.sink.close()


class TestKubernetes(SinkSuite):
    """Kubernetes keeps the contract."""

    async def test_thousand_resources(self, place: Cluster) -> None:
        """A storm as large as they come arrives whole."""
        resources = [
            {"kind": "Pod", "namespace": "payments", "name": f"api-{n:04d}-🔥", "alerts": n} for n in range(1000)
        ]
        storm = manifest(affectedResources=resources)
        assert await place.sink.write(storm, NAME) is Outcome.CREATED
        assert place.stored()[NAME]["spec"] == storm["spec"]

    async def test_written_as_stormfold(self, place: Cluster) -> None:
        """The API server knows who wrote a storm."""
        await place.sink.write(manifest(), NAME)
        assert [entry["manager"] for entry in place.stored()[NAME]["metadata"]["managedFields"]] == ["stormfold"]

    async def test_side_by_side(self, place: Cluster) -> None:
        """Concurrent writes of the same storms create each once."""
        names = [f"storm-{number}" for number in range(20)]
        outcomes = await asyncio.gather(*(place.sink.write(manifest(name), name) for name in names * 2))
        assert outcomes.count(Outcome.CREATED) == outcomes.count(Outcome.EXISTS) == 20

    @pytest.mark.parametrize(
        "wrong", [{"class": "Hurricane"}, {"mood": "stormy"}, {"alertCount": "many"}, {"pattern": "p" * 5000}]
    )
    async def test_never_fits(self, place: Cluster, wrong: dict[str, Any]) -> None:
        """A storm that the definition refuses is a dead letter that names the field, and the next one is written."""
        with pytest.raises(DeadLetter, match=rf"spec\.{next(iter(wrong))}"):
            await place.sink.write(manifest(**wrong), NAME)
        assert await place.sink.write(manifest(), NAME) is Outcome.CREATED

    async def test_too_large(self, place: Cluster) -> None:
        """A manifest that no store takes is not even sent."""
        with pytest.raises(DeadLetter, match="larger than"):
            await place.sink.write(manifest(pattern="p" * MAX_BYTES), NAME)

    async def test_not_json(self, place: Cluster) -> None:
        """A manifest that is not JSON never fits."""
        with pytest.raises(DeadLetter, match="JSON"):
            await place.sink.write(manifest(pattern="\ud800"), NAME)

    async def test_pages(self, place: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        """Retention sees storms beyond the first page, and tells of each page and each storm that goes."""
        monkeypatch.setattr(sinks, "PAGE", 3)
        await self._write(place, **{f"s{age}": NOW // 1000 - age for age in range(8)})
        told: list[int] = []
        await place.sink.retain(NOW, HOUR, 7, told.append)
        assert told == [0, 0, 0, 1]
        assert await retained(place.sink, NOW, 2000, 100) == 4
        assert set(place.stored()) == {"s0", "s1", "s2"}

    async def test_other_namespaces_count_for_themselves(self, place: Cluster) -> None:
        """The number is per namespace: a busy one does not push out the storms of another."""
        place.server.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "elsewhere"}},
        )
        sink = KubernetesSink(place.server.kubeconfig(ADMIN), None, ["storms", "elsewhere"])
        for namespace, name, seen in (("elsewhere", "old", 1), ("storms", "new", 2), ("storms", "newer", 3)):
            storm = manifest(name, seen)
            storm["metadata"]["namespace"] = namespace
            await sink.write(storm, name)
        assert await retained(sink, 4000, HOUR, 1) == 1
        assert set(place.stored()) == {"newer"}
        assert set(place.server.storms("elsewhere")) == {"old"}
        assert await retained(sink, 2 * HOUR, HOUR, 1) == 2
        await sink.close()

    async def test_keep_wins_the_race(self, place: Cluster) -> None:
        """A storm whose annotation the API server accepted is there after a retention that ran at the same time."""
        names = [f"s{number:02d}" for number in range(60)]
        await self._write(place, **dict.fromkeys(names, 1))

        def keep_from_the_end() -> set[str]:
            return {name for name in reversed(names) if place.server.annotate(name, "stormfold.dev/keep")}

        kept, deleted = await asyncio.gather(asyncio.to_thread(keep_from_the_end), retained(place.sink, NOW, HOUR, 100))
        assert set(place.stored()) == kept
        assert deleted == len(names) - len(kept)

    async def test_start_with_another_definition(self, place: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        """A definition in the cluster that this version's storms do not fit is found at the start."""
        monkeypatch.setattr(sinks, "_probe", lambda _: manifest(field_of_a_later_version=1))
        with pytest.raises(ActionRequired) as stop:
            await place.sink.start()
        assert "k8s/crd.yaml" in str(stop.value.hint)


class TestConfiguration:
    """What people must put right: the message says what."""

    async def stop(self, sink: Sink, storm: dict[str, Any] | None = None) -> ActionRequired:
        storm = storm or manifest()
        with pytest.raises(ActionRequired) as stop:
            await sink.write(storm, NAME)
        await sink.close()
        assert stop.value.hint
        return stop.value

    async def test_unknown_token(self, storms: ApiServer) -> None:
        """401: the credentials are no good."""
        stop = await self.stop(Cluster(storms, NOBODY).sink)
        assert "401 Unauthorized" in str(stop)
        assert "credentials" in str(stop.hint)

    async def test_no_permission(self, storms: ApiServer) -> None:
        """403: which role to bind, already at the start."""
        cluster = Cluster(storms, STRANGER)
        with pytest.raises(ActionRequired, match="403 Forbidden") as at_start:
            await cluster.sink.start()
        stop = await self.stop(cluster.sink)
        assert "stormfold-writer" in str(stop.hint)
        assert at_start.value.hint == stop.hint

    async def test_writer_only(self, storms: ApiServer) -> None:
        """Writing needs `create` and nothing more; retention without its role says which one."""
        (binding,) = [
            document
            for document in yaml.safe_load_all((Path(__file__).parents[3] / "k8s" / "rbac.yaml").read_text())
            if document["kind"] == "RoleBinding" and document["metadata"]["name"] == "stormfold-writer"
        ]
        binding["metadata"]["name"] = "writer-only"
        binding["subjects"][0]["name"] = "writer"
        storms.apply(binding)
        sink = Cluster(storms, WRITER).sink
        await sink.start()
        assert await sink.write(manifest(), NAME) is Outcome.CREATED
        with pytest.raises(ActionRequired) as stop:
            await retained(sink, NOW, 0, 0)
        assert "stormfold-retention" in str(stop.value.hint)
        await sink.close()

    async def test_no_namespace(self, storms: ApiServer) -> None:
        """404 as JSON: the namespace has to be created."""
        storm = manifest()
        storm["metadata"]["namespace"] = "nowhere"
        stop = await self.stop(Cluster(storms, ADMIN).sink, storm)
        assert "Create the namespace" in str(stop.hint)

    async def test_namespace_going_away(self, storms: ApiServer) -> None:
        """403 from a namespace that is being deleted is not a matter of roles."""
        storms.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ending"}})
        assert storms.request("DELETE", "/api/v1/namespaces/ending").status == 200
        storm = manifest()
        storm["metadata"]["namespace"] = "ending"
        stop = await self.stop(Cluster(storms, ADMIN).sink, storm)
        assert "being terminated" in str(stop)
        assert "Wait" in str(stop.hint)

    async def test_foreign_certificate(self, storms: ApiServer, bare: ApiServer) -> None:
        """A server whose certificate another authority signed is not talked to."""
        kubeconfig = storms.kubeconfig(WORKER)
        kubeconfig.write_text(kubeconfig.read_text().replace(str(storms.certificates), str(bare.certificates)))
        stop = await self.stop(KubernetesSink(kubeconfig, None, ["storms"]))
        assert "certificate" in str(stop)
        assert storms.storms() == {}

    @pytest.mark.parametrize("content", [None, "", "[]", "{", "a: b", "clusters: 7", "\0"])
    async def test_bad_kubeconfig(self, tmp_path: Path, content: str | None) -> None:
        """A kubeconfig that is missing or no kubeconfig says which setting names it."""
        file = tmp_path / "config"
        if content is not None:
            file.write_text(content)
        stop = await self.stop(KubernetesSink(file, None, ["storms"]))
        assert "STORMFOLD_KUBECONFIG" in str(stop.hint)

    async def test_unknown_context(self, storms: ApiServer) -> None:
        """A context that the kubeconfig does not have is named."""
        stop = await self.stop(KubernetesSink(storms.kubeconfig(WORKER), "production", ["storms"]))
        assert "production" in str(stop)

    async def test_renewed_token(self, storms: ApiServer) -> None:
        """After a refused token the kubeconfig is read again: whoever renews it need not restart the worker."""
        kubeconfig = storms.kubeconfig(WORKER)
        good = kubeconfig.read_text()
        kubeconfig.write_text(storms.kubeconfig(NOBODY).read_text())
        sink = KubernetesSink(kubeconfig, None, ["storms"])
        with pytest.raises(ActionRequired):
            await sink.start()
        kubeconfig.write_text(good)
        await sink.start()
        assert await sink.write(manifest(), NAME) is Outcome.CREATED
        await sink.close()

    async def test_in_a_pod(self, storms: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Without a kubeconfig, in a pod, the service account's token and certificate are used."""
        token = tmp_path / "token"
        config = yaml.safe_load(storms.kubeconfig(WORKER).read_text())
        token.write_text(config["users"][0]["user"]["token"])
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", storms.address.rpartition(":")[2])
        module = "kubernetes.aio.config.incluster_config"
        monkeypatch.setattr(f"{module}.SERVICE_CERT_FILENAME", str(storms.certificates))
        sink = KubernetesSink(None, None, ["storms"])
        monkeypatch.setattr(f"{module}.SERVICE_TOKEN_FILENAME", str(tmp_path / "missing"))
        with pytest.raises(ActionRequired, match="token"):
            await sink.start()
        monkeypatch.setattr(f"{module}.SERVICE_TOKEN_FILENAME", str(token))
        await sink.start()
        assert await sink.write(manifest(), NAME) is Outcome.CREATED
        await sink.close()


class TestOutages:
    """What passes by itself: try again, and all arrive."""

    async def test_server_killed_and_back(self, bare: ApiServer) -> None:
        """While the server is away each write asks for another try; the same sink goes on when it is back."""
        bare.install()
        cluster = Cluster(bare)
        assert await cluster.sink.write(manifest("before"), "before") is Outcome.CREATED
        bare.kill()
        with pytest.raises(Retry, match=r"127\.0\.0\.1"):
            await cluster.sink.write(manifest("during"), "during")
        with pytest.raises(Retry):
            await cluster.sink.start()
        bare.restart()
        assert await cluster.sink.write(manifest("before"), "before") is Outcome.EXISTS
        assert await cluster.sink.write(manifest("during"), "during") is Outcome.CREATED
        assert set(cluster.stored()) == {"before", "during"}
        await cluster.sink.close()

    async def test_store_killed_and_back(self, bare: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """An API server without its store answers 5xx or nothing: the same."""
        monkeypatch.setattr(sinks, "REQUEST_SECONDS", 2.0)
        bare.install()
        cluster = Cluster(bare)
        await cluster.sink.start()
        bare.kill_store()
        with pytest.raises(Retry):
            await cluster.sink.write(manifest("stored"), "stored")
        bare.start_store()
        bare.wait_ready()
        assert await cluster.sink.write(manifest("stored"), "stored") in Outcome
        assert "stored" in cluster.stored()
        await cluster.sink.close()

    async def test_frozen_server(self, bare: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that says nothing is given up after a while, and what it did meanwhile is found by its name."""
        bare.install()
        cluster = Cluster(bare)
        await cluster.sink.start()
        monkeypatch.setattr(sinks, "REQUEST_SECONDS", 0.5)
        with bare.frozen(), pytest.raises(Retry):
            await cluster.sink.write(manifest("frozen"), "frozen")
        monkeypatch.setattr(sinks, "REQUEST_SECONDS", 15.0)
        assert await cluster.sink.write(manifest("frozen"), "frozen") in Outcome
        assert "frozen" in cluster.stored()
        await cluster.sink.close()

    async def test_definition_missing_then_installed(self, bare: ApiServer) -> None:
        """404 as text: the definition has to be applied; the sink goes on once it is, without a restart."""
        bare.uninstall()
        cluster = Cluster(bare, ADMIN)
        with pytest.raises(ActionRequired) as stop:
            await cluster.sink.start()
        assert "k8s/crd.yaml" in str(stop.value.hint)
        bare.install()
        await cluster.sink.start()
        await cluster.sink.close()

    async def test_too_many_requests(self, narrow: ApiServer) -> None:
        """429: the pause that the server asks for is handed on; tried again, everything arrives."""
        cluster = Cluster(narrow)
        waits = []

        async def write(name: str) -> None:
            while True:
                try:
                    await cluster.sink.write(manifest(name), name)
                    return
                except Retry as retry:
                    waits.append(retry.after)
                    await asyncio.sleep(0.05)

        names = {f"s{number}" for number in range(100)}
        await asyncio.gather(*map(write, names))
        assert 1.0 in waits
        assert set(cluster.stored()) == names
        await cluster.sink.close()


@pytest.mark.parametrize(("namespace", "status"), [(700, 500), (3000, 413)])
async def test_real_answer_to_too_large_an_object(storms: ApiServer, namespace: int, status: int) -> None:
    """What the store, and what the API server itself, say of too large an object is a dead letter."""
    resource = {"kind": "k" * 1000, "namespace": "s" * namespace, "name": "n" * 1000, "alerts": 1}
    answer = storms.request("POST", STORMS, manifest(affectedResources=[resource] * 1000), raw=True)
    assert answer.status == status
    assert isinstance(sinks.sort_error(answer.status, answer.body, {}), DeadLetter)
