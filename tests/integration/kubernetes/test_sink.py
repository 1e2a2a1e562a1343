"""The Kubernetes sink against a real API server, with the permissions of the worker."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from stormfold.errors import ActionRequired, DeadLetter, Retry
from stormfold.sinks import Outcome, Sink
from stormfold.sinks import kubernetes as sinks
from stormfold.sinks.kinds import STORMS as STORM_KIND
from stormfold.sinks.kubernetes import MAX_BYTES, KubernetesSink
from stormfold.sinks.responses import response_error
from tests.support.apiserver import ADMIN, NOBODY, STORMS, STRANGER, WORKER, WRITER, ApiServer
from tests.support.sinks import HOUR, NOW, SinkSuite, delete_expired
from tests.support.storms import NAME, manifest


class Cluster:
    def __init__(self, server: ApiServer, identity: str = WORKER) -> None:
        self.server = server
        self.sink: Sink = KubernetesSink(server.kubeconfig(identity), None)

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
    """The contract of `Sink`, and what is special to Kubernetes."""

    async def test_an_aggregate_with_a_thousand_resources_is_stored_completely(self, place: Cluster) -> None:
        resources = [
            {"kind": "Pod", "namespace": "payments", "name": f"api-{n:04d}-🔥", "alerts": n} for n in range(1000)
        ]
        storm = manifest(affectedResources=resources)
        assert await place.sink.write(storm, NAME) is Outcome.CREATED
        assert place.stored()[NAME]["spec"] == storm["spec"]

    async def test_stormfold_is_the_field_manager(self, place: Cluster) -> None:
        await place.sink.write(manifest(), NAME)
        assert [entry["manager"] for entry in place.stored()[NAME]["metadata"]["managedFields"]] == ["stormfold"]

    async def test_concurrent_writes_create_each_resource_once(self, place: Cluster) -> None:
        names = [f"storm-{number}" for number in range(20)]
        outcomes = await asyncio.gather(*(place.sink.write(manifest(name), name) for name in names * 2))
        assert outcomes.count(Outcome.CREATED) == outcomes.count(Outcome.EXISTS) == 20

    @pytest.mark.parametrize(
        "wrong", [{"class": "Hurricane"}, {"mood": "stormy"}, {"alertCount": "many"}, {"pattern": "p" * 5000}]
    )
    async def test_a_manifest_that_the_definition_refuses_is_a_dead_letter(
        self, place: Cluster, wrong: dict[str, Any]
    ) -> None:
        """The reason names the field, and the next resource is created."""
        with pytest.raises(DeadLetter, match=rf"spec\.{next(iter(wrong))}"):
            await place.sink.write(manifest(**wrong), NAME)
        assert await place.sink.write(manifest(), NAME) is Outcome.CREATED

    async def test_a_manifest_larger_than_the_limit_is_not_sent(self, place: Cluster) -> None:
        with pytest.raises(DeadLetter, match="larger than"):
            await place.sink.write(manifest(pattern="p" * MAX_BYTES), NAME)

    async def test_a_manifest_that_is_not_json_is_a_dead_letter(self, place: Cluster) -> None:
        with pytest.raises(DeadLetter, match="JSON"):
            await place.sink.write(manifest(pattern="\ud800"), NAME)

    async def test_retention_reads_all_pages(self, place: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        """It reports after each page and each deletion."""
        monkeypatch.setattr(sinks, "PAGE_SIZE", 3)
        await self._write(place, **{f"s{age}": NOW // 1000 - age for age in range(8)})
        reported: list[int] = []
        await place.sink.delete_expired(["storms"], NOW, HOUR, 7, reported.append)
        assert reported == [0, 0, 0, 1]
        assert await delete_expired(place.sink, NOW, 2000, 100) == 4
        assert set(place.stored()) == {"s0", "s1", "s2"}

    async def test_the_limit_of_retention_holds_for_each_namespace(self, place: Cluster) -> None:
        place.server.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "elsewhere"}},
        )
        sink = KubernetesSink(place.server.kubeconfig(ADMIN), None)
        for namespace, name, seen in (("elsewhere", "old", 1), ("storms", "new", 2), ("storms", "newer", 3)):
            storm = manifest(name, seen)
            storm["metadata"]["namespace"] = namespace
            await sink.write(storm, name)
        assert await delete_expired(sink, 4000, HOUR, 1, "storms", "elsewhere") == 1
        assert set(place.stored()) == {"newer"}
        assert set(place.server.storms("elsewhere")) == {"old"}
        assert await delete_expired(sink, 2 * HOUR, HOUR, 1, "storms", "elsewhere") == 2
        await sink.close()

    async def test_a_namespace_without_rights_does_not_stop_retention_in_others(self, place: Cluster) -> None:
        place.server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "elsewhere"}})
        await self._write(place, old=1)
        with pytest.raises(ActionRequired, match='"elsewhere"'):
            await delete_expired(place.sink, NOW, HOUR, 100, "elsewhere", "storms")
        assert place.stored() == {}

    async def test_a_resource_annotated_during_retention_is_kept(self, place: Cluster) -> None:
        """Every annotation that the API server accepted protects its resource."""
        names = [f"s{number:02d}" for number in range(60)]
        await self._write(place, **dict.fromkeys(names, 1))

        def keep_from_the_end() -> set[str]:
            return {name for name in reversed(names) if place.server.annotate(name, "stormfold.dev/keep")}

        kept, deleted = await asyncio.gather(
            asyncio.to_thread(keep_from_the_end), delete_expired(place.sink, NOW, HOUR, 100)
        )
        assert set(place.stored()) == kept
        assert deleted == len(names) - len(kept)

    async def test_a_check_finds_a_definition_of_another_version(self, place: Cluster) -> None:
        later = replace(STORM_KIND, probe=lambda _: manifest(field_of_a_later_version=1))
        sink = KubernetesSink(place.server.kubeconfig(WORKER), None, later)
        with pytest.raises(ActionRequired) as stop:
            await sink.check("storms")
        assert "k8s/crd.yaml" in str(stop.value.hint)
        await sink.close()


class TestConfiguration:
    """Errors that a person must correct: the message states how."""

    async def stop(self, sink: Sink, storm: dict[str, Any] | None = None) -> ActionRequired:
        storm = storm or manifest()
        with pytest.raises(ActionRequired) as stop:
            await sink.write(storm, NAME)
        await sink.close()
        assert stop.value.hint
        return stop.value

    async def test_an_unknown_token_requires_new_credentials(self, storms: ApiServer) -> None:
        stop = await self.stop(Cluster(storms, NOBODY).sink)
        assert "401 Unauthorized" in str(stop)
        assert "credentials" in str(stop.hint)

    async def test_a_missing_permission_names_the_role_already_at_start(self, storms: ApiServer) -> None:
        cluster = Cluster(storms, STRANGER)
        with pytest.raises(ActionRequired, match="403 Forbidden") as at_start:
            await cluster.sink.check("storms")
        stop = await self.stop(cluster.sink)
        assert "stormfold-writer" in str(stop.hint)
        assert at_start.value.hint == stop.hint

    async def test_writing_needs_only_create_and_retention_names_its_role(self, storms: ApiServer) -> None:
        (binding,) = [
            document
            for document in yaml.safe_load_all((Path(__file__).parents[3] / "k8s" / "rbac.yaml").read_text())
            if document["kind"] == "RoleBinding" and document["metadata"]["name"] == "stormfold-writer"
        ]
        binding["metadata"]["name"] = "writer-only"
        binding["subjects"][0]["name"] = "writer"
        storms.apply(binding)
        sink = Cluster(storms, WRITER).sink
        await sink.check("storms")
        assert await sink.write(manifest(), NAME) is Outcome.CREATED
        with pytest.raises(ActionRequired) as stop:
            await delete_expired(sink, NOW, 0, 0)
        assert "stormfold-retention" in str(stop.value.hint)
        await sink.close()

    async def test_a_missing_namespace_must_be_created(self, storms: ApiServer) -> None:
        storm = manifest()
        storm["metadata"]["namespace"] = "nowhere"
        stop = await self.stop(Cluster(storms, ADMIN).sink, storm)
        assert "create the namespace" in str(stop.hint)

    async def test_a_namespace_being_deleted_is_not_a_missing_permission(self, storms: ApiServer) -> None:
        storms.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ending"}})
        assert storms.request("DELETE", "/api/v1/namespaces/ending").status == 200
        storm = manifest()
        storm["metadata"]["namespace"] = "ending"
        stop = await self.stop(Cluster(storms, ADMIN).sink, storm)
        assert "being terminated" in str(stop)
        assert "wait" in str(stop.hint)

    async def test_a_certificate_of_another_authority_is_refused(self, storms: ApiServer, bare: ApiServer) -> None:
        kubeconfig = storms.kubeconfig(WORKER)
        kubeconfig.write_text(kubeconfig.read_text().replace(str(storms.certificates), str(bare.certificates)))
        stop = await self.stop(KubernetesSink(kubeconfig, None))
        assert "certificate" in str(stop)
        assert storms.storms() == {}

    @pytest.mark.parametrize("content", [None, "", "[]", "{", "a: b", "clusters: 7", "\0"])
    async def test_an_invalid_kubeconfig_names_its_setting(self, tmp_path: Path, content: str | None) -> None:
        file = tmp_path / "config"
        if content is not None:
            file.write_text(content)
        stop = await self.stop(KubernetesSink(file, None))
        assert "STORMFOLD_KUBECONFIG" in str(stop.hint)

    async def test_an_unknown_context_is_named(self, storms: ApiServer) -> None:
        stop = await self.stop(KubernetesSink(storms.kubeconfig(WORKER), "production"))
        assert "production" in str(stop)

    async def test_a_renewed_token_is_used_without_a_restart(self, storms: ApiServer) -> None:
        kubeconfig = storms.kubeconfig(WORKER)
        good = kubeconfig.read_text()
        kubeconfig.write_text(storms.kubeconfig(NOBODY).read_text())
        sink = KubernetesSink(kubeconfig, None)
        with pytest.raises(ActionRequired):
            await sink.check("storms")
        kubeconfig.write_text(good)
        await sink.check("storms")
        assert await sink.write(manifest(), NAME) is Outcome.CREATED
        await sink.close()

    async def test_in_a_pod_the_service_account_is_used(
        self, storms: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        token = tmp_path / "token"
        config = yaml.safe_load(storms.kubeconfig(WORKER).read_text())
        token.write_text(config["users"][0]["user"]["token"])
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", storms.address.rpartition(":")[2])
        module = "kubernetes.aio.config.incluster_config"
        monkeypatch.setattr(f"{module}.SERVICE_CERT_FILENAME", str(storms.certificates))
        sink = KubernetesSink(None, None)
        monkeypatch.setattr(f"{module}.SERVICE_TOKEN_FILENAME", str(tmp_path / "missing"))
        with pytest.raises(ActionRequired, match="token"):
            await sink.check("storms")
        monkeypatch.setattr(f"{module}.SERVICE_TOKEN_FILENAME", str(token))
        await sink.check("storms")
        assert await sink.write(manifest(), NAME) is Outcome.CREATED
        await sink.close()


class TestOutages:
    """Temporary errors: after a retry all resources exist."""

    async def test_the_sink_recovers_after_a_restart_of_the_api_server(self, bare: ApiServer) -> None:
        bare.install()
        cluster = Cluster(bare)
        assert await cluster.sink.write(manifest("before"), "before") is Outcome.CREATED
        bare.kill()
        with pytest.raises(Retry, match=r"127\.0\.0\.1"):
            await cluster.sink.write(manifest("during"), "during")
        with pytest.raises(Retry):
            await cluster.sink.check("storms")
        bare.restart()
        assert await cluster.sink.write(manifest("before"), "before") is Outcome.EXISTS
        assert await cluster.sink.write(manifest("during"), "during") is Outcome.CREATED
        assert set(cluster.stored()) == {"before", "during"}
        await cluster.sink.close()

    async def test_the_sink_recovers_after_a_restart_of_etcd(
        self, bare: ApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sinks, "REQUEST_SECONDS", 2.0)
        bare.install()
        cluster = Cluster(bare)
        await cluster.sink.check("storms")
        bare.kill_store()
        with pytest.raises(Retry):
            await cluster.sink.write(manifest("stored"), "stored")
        bare.start_store()
        bare.wait_ready()
        assert await cluster.sink.write(manifest("stored"), "stored") in Outcome
        assert "stored" in cluster.stored()
        await cluster.sink.close()

    async def test_a_request_times_out_and_its_repeat_finds_what_it_wrote(
        self, bare: ApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bare.install()
        cluster = Cluster(bare)
        await cluster.sink.check("storms")
        monkeypatch.setattr(sinks, "REQUEST_SECONDS", 0.5)
        with bare.frozen(), pytest.raises(Retry):
            await cluster.sink.write(manifest("frozen"), "frozen")
        monkeypatch.setattr(sinks, "REQUEST_SECONDS", 15.0)
        assert await cluster.sink.write(manifest("frozen"), "frozen") in Outcome
        assert "frozen" in cluster.stored()
        await cluster.sink.close()

    async def test_a_definition_applied_later_is_used_without_a_restart(self, bare: ApiServer) -> None:
        bare.uninstall()
        cluster = Cluster(bare, ADMIN)
        with pytest.raises(ActionRequired) as stop:
            await cluster.sink.check("storms")
        assert "k8s/crd.yaml" in str(stop.value.hint)
        bare.install()
        await cluster.sink.check("storms")
        await cluster.sink.close()

    async def test_retry_after_is_passed_on_if_the_api_server_is_overloaded(self, narrow: ApiServer) -> None:
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
async def test_an_object_too_large_for_the_server_is_a_dead_letter(
    storms: ApiServer, namespace: int, status: int
) -> None:
    """The store refuses it with 500, the API server itself with 413."""
    resource = {"kind": "k" * 1000, "namespace": "s" * namespace, "name": "n" * 1000, "alerts": 1}
    answer = storms.request("POST", STORMS, manifest(affectedResources=[resource] * 1000), raw=True)
    assert answer.status == status
    assert isinstance(response_error(answer.status, answer.body, {}), DeadLetter)
