# syntax=docker/dockerfile:1
# The builder: `vitrine build` as a job. It has what ingest, export, embed and index need and no
# torch: a bundle is exported before, with `vitrine bundle export` on a machine with the extra [train].
# From the repository root: docker build -f deploy/docker/build.Dockerfile -t vitrine-build:0.1.0 .

ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS wheels
# Further fsspec file systems for object stores, as in --build-arg FILESYSTEMS="s3fs".
ARG FILESYSTEMS=""
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY protos ./protos
COPY rpc ./rpc
COPY cli ./cli
COPY encoder_service ./encoder_service
COPY index_service ./index_service
COPY gateway ./gateway
RUN pip wheel --no-cache-dir --wheel-dir /wheels ".[encoder,index,gateway]" ${FILESYSTEMS}

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --user-group --no-create-home vitrine \
    && install -d -o vitrine -g vitrine /var/lib/vitrine /var/cache/vitrine
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels /wheels/*.whl
ENV PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/vitrine
# A job, not a server: no port, no health check; its exit status is what counts.
ENTRYPOINT ["vitrine", "build"]
