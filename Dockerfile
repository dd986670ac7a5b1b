# The gateway on the embedded log with a demo feed, its root file system read-only:
#
#   docker build -t eventstreams .
#   docker run --rm -p 8092:8092 --read-only --tmpfs /tmp -v eventstreams-data:/data eventstreams
#
# Another configuration: -v "$PWD/config:/config:ro", and after the image's name
# `serve --config /config/kafka.yaml --host 0.0.0.0`. docs/deployment.md says more;
# scripts/container-check carries out every step of this file where no engine is.

FROM python:3.13-slim-trixie AS build
WORKDIR /src
# What builds is not in what runs: no pip, no compiler, no build backend.
RUN python -m venv /build && python -m venv --without-pip /app
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN /build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt \
    && /build/bin/pip --python /app/bin/python install --no-cache-dir --require-hashes \
        --only-binary :all: -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY static static
COPY eventstreams eventstreams
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/pip --python /app/bin/python install --no-cache-dir --no-deps /wheels/*.whl

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="eventstreams" \
    org.opencontainers.image.description="Serves the topics of a log as Server-Sent Events" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin eventstreams \
    && install -d -o eventstreams -g eventstreams /data
COPY --from=build /app /app
# For settings that are mounted alone: `schemas: [/usr/share/eventstreams/schemas]`.
COPY config/schemas /usr/share/eventstreams/schemas
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
VOLUME /data
EXPOSE 8092
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8092, timeout=2); c.request('GET', '/healthz'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["eventstreams"]
CMD ["serve", "--host", "0.0.0.0", "--data-dir", "/data"]
