"""The Dockerfile is linted, agrees with the project, and its image is built and run."""

import ast
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from stormfold import __version__
from stormfold.health import Health
from stormfold.web.server import Web
from tests.integration.deploy.files import DOCKERFILE, ROOT, environment, parse
from tests.support.buildah import Buildah, Container, buildah, needed
from tests.support.servers import until

TEXT = DOCKERFILE.read_text()
FINAL = TEXT.rpartition("\nFROM ")[2]
ARCHITECTURES = "x86_64-manylinux_2_28", "aarch64-manylinux_2_28"
IMAGE = "localhost/stormfold"
SIGNER = "from aws_msk_iam_sasl_signer import MSKAuthTokenProvider; from botocore.exceptions import BotoCoreError"
"""Imports that tokens for Amazon MSK need."""
STOPPED_WITHIN = 10.0
"""Seconds after SIGTERM, as documented."""


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """A Buildah that has built the Dockerfile on a substitute of its base image."""
    base = re.search(r"^ARG PYTHON=(\S+)$", TEXT, re.MULTILINE)
    assert base
    with buildah(tmp_path_factory.mktemp("buildah")) as made:
        made.base(f"docker.io/library/{base[1]}")
        made.build(ROOT, IMAGE)
        yield made


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stdout, done.stdout


def test_dockerignore_admits_exactly_the_files_that_are_copied() -> None:
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", TEXT, re.MULTILINE) for name in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied


def test_the_image_has_the_python_version_of_the_tests() -> None:
    found = re.search(r"^ARG PYTHON=python:(\d+)\.(\d+)\.\d+-slim-", TEXT, re.MULTILINE)
    ci = re.search(r"Needs Python (\d+)\.(\d+)", (ROOT / ".ci" / "run").read_text())
    assert found and ci and found.groups() == ci.groups()


def test_the_build_takes_exactly_the_backend_and_its_requirements_from_the_developers_lock() -> None:
    found = re.search(r"/\^\(([a-z|-]+)\)==/", TEXT)
    assert found
    needed, waiting = set[str](), ["hatchling"]
    while waiting:
        needed.add(name := waiting.pop())
        for line in requires(name) or ():
            requirement = Requirement(line)
            if (
                not requirement.marker or requirement.marker.evaluate({"extra": ""})
            ) and requirement.name not in needed:
                waiting.append(requirement.name)
    assert set(found[1].split("|")) == needed


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_dependency_needs_a_compiler(architecture: str, tmp_path: Path) -> None:
    """Every dependency has a wheel, except Faust on ARM, whose installation falls back to pure Python."""
    lock = tmp_path / "requirements.txt"
    lines = (ROOT / "requirements.lock").read_text()
    if architecture.startswith("aarch64"):
        lines = re.sub(r"^faust-streaming==.*\n(    .*\n)*", "", lines, flags=re.MULTILINE)
    lock.write_text(lines)
    found = re.search(r"python:(\d+\.\d+)", TEXT)
    assert found
    done = subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--quiet", "--no-deps", "--require-hashes"),
            *("--only-binary", ":all:", "--python-version", found[1], "--python-platform", architecture),
            *("--target", tmp_path / "target", "--requirement", lock),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_image_runs_the_worker_as_a_numeric_user_and_as_process_1() -> None:
    """Kubernetes can verify a numeric user, and signals reach process 1."""
    assert re.search(r"^USER 65532:65532$", FINAL, re.MULTILINE)
    assert 'ENTRYPOINT ["stormfold"]' in FINAL
    command = re.search(r"^CMD (\[.*\])$", FINAL, re.MULTILINE)
    assert command and parse(ast.literal_eval(command[1])) == "worker"


def test_the_variables_of_the_image_are_known_and_match_its_port() -> None:
    variables = dict(re.findall(r"(STORMFOLD_\w+)=(\S+)", FINAL))
    with environment(variables) as settings:
        assert settings.http_bind == ("0.0.0.0", int(re.findall(r"^EXPOSE (\d+)$", FINAL, re.MULTILINE)[0]))
        assert f"http://127.0.0.1:{settings.http_bind[1]}/healthz" in FINAL


async def test_the_health_check_fails_for_a_dead_component_and_without_a_worker() -> None:
    found = re.search(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", FINAL, re.MULTILINE)
    assert found
    *_, code = ast.literal_eval(found[1])
    health = Health()
    health.heartbeat("fold")
    web = Web(("127.0.0.1", 0), health)
    await web.start()
    here = code.replace(":8080/", f":{web.port}/")

    async def check() -> int:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", here, stderr=asyncio.subprocess.DEVNULL)
        return await process.wait()

    assert await check() == 0
    health.timeout = -1.0
    assert await check() != 0
    await web.stop()
    assert await check() != 0


def test_the_build_steps_install_all_of_stormfold_without_pip(tmp_path: Path) -> None:
    """The steps run on this machine, and install from hashed locks."""
    build = TEXT.partition("\nFROM ")[2].rpartition("\nFROM ")[0]
    steps = re.findall(r"^(?:RUN|COPY) (?:.*\\\n)*.*$", build, re.MULTILINE)
    prefix, work = tmp_path / "opt", tmp_path / "build"
    here = {"/opt/stormfold": str(prefix)}
    venv.create(tmp_path / "base", with_pip=True)
    work.mkdir()
    for step in steps:
        kind, text = step.split(None, 1)
        if kind == "COPY":
            for name in text.split()[:-1]:
                source = ROOT / name
                if source.is_dir():
                    shutil.copytree(source, work / name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, work)
            continue
        for there, value in here.items():
            text = text.replace(there, value)
        done = subprocess.run(
            ["sh", "-euc", text],
            cwd=work,
            env=os.environ | {"PATH": f"{tmp_path / 'base' / 'bin'}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    done = subprocess.run([prefix / "bin" / "stormfold", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"stormfold {__version__}\n"
    (package,) = prefix.glob("lib/python*/site-packages/stormfold")
    tracked = subprocess.run(["git", "ls-files", "app"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [name for name in tracked.split() if not (package.parent / name.removeprefix("app/")).exists()] == []
    assert not list(prefix.glob("bin/pip*"))
    subprocess.run([prefix / "bin" / "python", "-c", SIGNER], check=True)


@needed
async def test_the_image_runs_read_only_and_stops_in_time(builder: Buildah, tmp_path: Path) -> None:
    """Without Kafka and Redis the worker stays alive as process 1, without privileges."""
    configuration = builder.configuration(IMAGE)
    root = builder.unpacked(IMAGE)
    assert not (root / "build").exists()
    container = Container(root, configuration, tmp_path)
    try:
        expected = "no Kafka broker answers", "Redis is not available"
        await until(
            lambda: all(words in container.log.read_text() for words in expected),
            60,
            "the missing Kafka and Redis are logged",
        )
        await until(container.check, what="the health check of the image passes")
        status = await container.status()
        assert re.search(r"^NSpid:.*\t1$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        result = await container.execute(
            "python", "-c", "import os; print(os.getuid(), os.getgid(), bool(os.statvfs('/').f_flag & os.ST_RDONLY))"
        )
        assert result.stdout == "65532 65532 True\n", result.stderr
        result = await container.execute("python", "-c", SIGNER)
        assert result.returncode == 0, result.stderr
        os.kill(await container.pid(), signal.SIGTERM)
        assert await asyncio.to_thread(container.process.wait, STOPPED_WITHIN) == 0
    finally:
        container.close()


@needed
async def test_the_image_runs_as_any_user_that_openshift_assigns(builder: Buildah, tmp_path: Path) -> None:
    """Such a user has no name, no home folder, and the group 0."""
    configuration = builder.configuration(IMAGE) | {"User": "1000660000:0"}
    container = Container(builder.unpacked(IMAGE), configuration, tmp_path)
    try:
        await until(lambda: "Redis is not available" in container.log.read_text(), 60, "the worker runs")
        await until(container.check, what="the health check of the image passes")
        assert (await container.execute("stormfold", "--version")).returncode == 0
        os.kill(await container.pid(), signal.SIGTERM)
        assert await asyncio.to_thread(container.process.wait, STOPPED_WITHIN) == 0
    finally:
        container.close()
