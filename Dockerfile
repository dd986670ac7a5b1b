# The gateway on the embedded log with a demo feed:
#
#   docker build -t eventstreams .
#   docker run --rm -p 8092:8092 -v eventstreams-data:/data eventstreams
#
# Another configuration: -v "$PWD/config:/config:ro", and after the image's name
# `serve --config /config/kafka.yaml --host 0.0.0.0`.

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /app
COPY requirements/runtime.txt requirements/
RUN /app/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY static static
COPY eventstreams eventstreams
RUN /app/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home eventstreams \
    && install -d -o eventstreams -g eventstreams /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER eventstreams
VOLUME /data
EXPOSE 8092
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8092/healthz', timeout=2)"]
ENTRYPOINT ["eventstreams"]
CMD ["serve", "--host", "0.0.0.0", "--data-dir", "/data"]
