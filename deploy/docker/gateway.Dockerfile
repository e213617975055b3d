# syntax=docker/dockerfile:1
# The gateway: no model and no FAISS in it.
# From the repository root: docker build -f deploy/docker/gateway.Dockerfile -t vitrine-gateway:0.1.0 .

ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS wheels
# Further fsspec file systems for object stores, as in --build-arg FILESYSTEMS="s3fs".
ARG FILESYSTEMS=""
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY protos ./protos
COPY rpc ./rpc
COPY cli ./cli
COPY gateway ./gateway
RUN pip wheel --no-cache-dir --wheel-dir /wheels ".[gateway]" ${FILESYSTEMS}

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --user-group --no-create-home vitrine \
    && install -d -o vitrine -g vitrine /var/lib/vitrine /var/cache/vitrine
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels /wheels/*.whl
ENV PYTHONUNBUFFERED=1 \
    VITRINE_GATEWAY_HOST=0.0.0.0
USER 10001:10001
WORKDIR /var/lib/vitrine
EXPOSE 7700 8700
# A server that waits for its first generation is up, but not healthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "rpc.health_probe", "127.0.0.1:7700"]
ENTRYPOINT ["python", "-m", "gateway"]
