# Runs any stormfold command, by default `stormfold worker`. The Python version is the one that the tests run on.
ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements.lock requirements-dev.lock ./
# The build backend comes from the developers' lock, with hashes; it does not reach the image.
RUN awk '/^[a-z]/ { keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } keep' requirements-dev.lock \
        > build.lock \
    && pip install --require-hashes --requirement build.lock \
    && python -m venv --without-pip /opt/stormfold \
    && pip --python /opt/stormfold/bin/python install --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/stormfold/bin/python install --no-deps --no-index dist/*.whl

FROM ${PYTHON}
# Must equal stormfold.__version__; a unit test compares.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="stormfold" \
      org.opencontainers.image.description="Folds alert storms: alerts in on Kafka, one Kubernetes resource per storm out" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/stormfold /opt/stormfold
# The folder of manifests for `--sink directory:/storms`. A volume mounted here takes over its owner. OpenShift runs the
# image as any user of group 0.
RUN install -d -o 65532 -g 0 -m 0775 /storms
ENV PATH=/opt/stormfold/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    STORMFOLD_HTTP_ADDRESS=0.0.0.0:8080
# The root file system may be read-only, but /tmp must be writable.
WORKDIR /tmp
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
# Exec form: the worker is PID 1 and receives SIGTERM.
ENTRYPOINT ["stormfold"]
CMD ["worker"]
