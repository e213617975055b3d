# syntax=docker/dockerfile:1
# The encoder service: ONNX Runtime and tokenizers, no torch.
# From the repository root: docker build -f deploy/docker/encoder.Dockerfile -t vitrine-encoder:0.1.0 .

ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS wheels
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY protos ./protos
COPY rpc ./rpc
COPY cli ./cli
COPY encoder_service ./encoder_service
RUN pip wheel --no-cache-dir --wheel-dir /wheels ".[encoder]"

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --user-group --no-create-home vitrine \
    && install -d -o vitrine -g vitrine /var/lib/vitrine /var/cache/vitrine
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels /wheels/*.whl
ENV PYTHONUNBUFFERED=1 \
    VITRINE_ENCODER_HOST=0.0.0.0
USER 10001:10001
WORKDIR /var/lib/vitrine
EXPOSE 7701 8701
# A server that still loads its bundle is up, but not healthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "rpc.health_probe", "127.0.0.1:7701"]
ENTRYPOINT ["python", "-m", "encoder_service"]
