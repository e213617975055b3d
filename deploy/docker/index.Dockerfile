# syntax=docker/dockerfile:1
# The index service, one shard: FAISS.
# From the repository root: docker build -f deploy/docker/index.Dockerfile -t vitrine-index:0.1.0 .

ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS wheels
# Further fsspec file systems for object stores, as in --build-arg FILESYSTEMS="s3fs".
ARG FILESYSTEMS=""
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY protos ./protos
COPY rpc ./rpc
COPY cli ./cli
COPY index_service ./index_service
RUN pip wheel --no-cache-dir --wheel-dir /wheels ".[index]" ${FILESYSTEMS}

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --user-group --no-create-home vitrine \
    && install -d -o vitrine -g vitrine /var/lib/vitrine /var/cache/vitrine
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels /wheels/*.whl
ENV PYTHONUNBUFFERED=1 \
    VITRINE_INDEX_HOST=0.0.0.0
USER 10001:10001
WORKDIR /var/lib/vitrine
EXPOSE 7702 8702
# A server that holds no generation yet is up, but not healthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "rpc.health_probe", "127.0.0.1:7702"]
ENTRYPOINT ["python", "-m", "index_service"]
