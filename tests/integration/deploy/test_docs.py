"""Commands, files, links and tests that pages name exist, and commands can be parsed."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from stormfold import __version__
from stormfold.cli import COMMANDS
from tests.integration.deploy.files import (
    ALONE,
    COMPONENTS,
    COMPOSE,
    K8S,
    MANAGED,
    OVERLAYS,
    RECEIVE,
    ROOT,
    Programs,
    built,
    parse,
)

DEPLOY = ROOT / "docs" / "how-to" / "deploy.md"
UPGRADE = ROOT / "docs" / "how-to" / "upgrade.md"
BACK_OUT = ROOT / "docs" / "operations" / "back-out.md"
STACK = ROOT / "docs" / "how-to" / "local-stack.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(params=PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    """Each page in turn."""
    path: Path = request.param
    return path


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, kind: str = "") -> list[str]:
    """The code blocks of one language; without a language, those with commands."""
    return [code for found, code in FENCED.findall(page.read_text()) if found == kind]


def typed(page: Path) -> list[list[str]]:
    """Every command of a page, split into words."""
    lines = "".join(blocks(page)).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(\w+ [^`]+)`", FENCED.sub("", page.read_text()))
    return [shlex.split(line, comments=True) for line in [*lines, *inline]]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's sections, as links name them."""
    titles = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_to_existing_pages_and_sections(page: Path) -> None:
    for link, section in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)", page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not section or section in anchors(target), f"{link}#{section}"


def test_stormfold_commands_exist_with_their_options(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also commands that are run in a container. The changelog names commands that no longer exist."""
    if page.name == "CHANGELOG.md":
        return
    monkeypatch.chdir(tmp_path)
    for name in ("stormfold.yaml", "alerts.json", "alert.json"):
        Path(name).touch()
    found = [
        words[words.index("stormfold") + 1 :] for words in typed(page) if "stormfold" in words and words[0] != "helm"
    ]
    commands = [words for words in found if words and words != ["--help"]]
    assert commands or page not in (DEPLOY, STACK)
    for words in commands:
        # The name of a command alone may be a mention, not a call.
        assert (len(words) == 1 and words[0] in COMMANDS) or parse(words)


def test_tests_that_pages_name_exist(page: Path) -> None:
    for file, _, name in re.findall(r"`(tests/[\w/]+\.py)(::(\w+))?`", page.read_text()):
        assert not name or re.search(rf"def {name}\b", (ROOT / file).read_text()), f"{file}::{name}"
        assert (ROOT / file).exists(), file


def test_compose_services_and_profiles_exist() -> None:
    compose = yaml.safe_load(COMPOSE.read_text())
    profiles = {profile for service in compose["services"].values() for profile in service.get("profiles", [])}
    text = STACK.read_text()
    assert set(re.findall(r"--profile (\S+)", text)) == profiles
    named = re.findall(r"docker compose (?:exec|run --use-aliases --detach|restart|rm --stop --force) ([\w-]+)", text)
    assert named and set(named) <= compose["services"].keys()
    # Without it, a further container lacks the name under which Prometheus finds workers.
    assert all("--use-aliases" in line for line in re.findall(r"docker compose run .*", text))


def test_files_that_pages_name_exist(page: Path) -> None:
    """Also, the deploy page lists every variant."""
    text = page.read_text()
    for name in re.findall(r"`(k8s/[\w./-]*|\.env)`", text):
        assert (ROOT / name).exists(), name
    if page == DEPLOY:
        assert set(re.findall(r"^\| `((?:base|overlays|components)[\w/-]*)` \|", text, re.MULTILINE)) == {
            str(path.relative_to(K8S)) for path in [K8S / "base", *OVERLAYS, *COMPONENTS]
        }


def checkout(path: Path) -> str:
    """The path of a variant in the page's kustomization."""
    return f"stormfold/{path.relative_to(ROOT)}"


@pytest.mark.parametrize(
    ("variant", "added"),
    [*((path, []) for path in ALONE if path != K8S), *MANAGED.items()],
    ids=lambda value: value.name if isinstance(value, Path) else "+".join(path.name for path in value) or "alone",
)
def test_the_kustomization_of_the_page_works_with_every_variant(
    tools: Programs, tmp_path: Path, variant: Path, added: list[Path]
) -> None:
    """With logins and TLS too; image, addresses and configuration arrive in the manifests."""
    (text,) = (block for block in blocks(DEPLOY, "yaml") if block.startswith("# kustomization.yaml"))
    # The page expects a checkout in the folder.
    shutil.copytree(K8S, tmp_path / "stormfold" / "k8s", symlinks=True)
    text = text.replace(checkout(K8S / "overlays" / "keda"), checkout(variant))
    if added:
        for path in COMPONENTS:
            assert checkout(path) in text
        components = ", ".join(map(checkout, added))
        text, lines = re.subn(r"^# components: .*", f"components: [{components}]", text, flags=re.MULTILINE)
        assert lines == 1
    managed = added or variant.name == "managed"
    redis = "rediss://redis.example.com:6380/0" if managed else "redis://redis.example.com:6379/0"
    assert redis in text
    text = text.replace("redis://redis.example.com:6379/0", redis)
    (tmp_path / "kustomization.yaml").write_text(text)
    (tmp_path / "stormfold.yaml").write_text("windows: {gap: 2m}\n")
    manifests = built(tools.kustomize, tmp_path)
    text = yaml.safe_dump_all(manifests)
    assert f"image: registry.example.com/stormfold:{__version__}" in text and "image: stormfold:" not in text
    assert "STORMFOLD_KAFKA_BOOTSTRAP_SERVERS: kafka-1.example.com:9092,kafka-2.example.com:9092" in text
    assert f"STORMFOLD_REDIS_URL: {redis}\n" in text
    assert ("STORMFOLD_REDIS_SSL_CAFILE" in text) == bool(managed)
    (config,) = (one["data"] for one in manifests if "stormfold.yaml" in one.get("data", {}))
    assert config == {"stormfold.yaml": "windows: {gap: 2m}\n"}


def test_deployments_and_labels_of_the_pages_exist(tools: Programs) -> None:
    """Each variant has a Deployment that the commands name, with the label that they select by."""
    text = "\n".join(blocks(DEPLOY) + blocks(BACK_OUT) + [page.read_text() for page in (DEPLOY, BACK_OUT, UPGRADE)])
    named = set(re.findall(r"deployment/([\w-]+)", text))
    (selector,) = set(re.findall(r"--selector (\S+?)[\s`]", text))
    label, _, value = selector.partition("=")
    everywhere = {one["metadata"]["name"] for one in built(tools.kustomize, RECEIVE) if one["kind"] == "Deployment"}
    for variant in ALONE:
        deployments = [one for one in built(tools.kustomize, variant) if one["kind"] == "Deployment"]
        names = {one["metadata"]["name"] for one in deployments}
        assert names & named, variant
        assert all(one["metadata"]["labels"][label] == value for one in deployments)
        everywhere |= names
    assert named <= everywhere
