# One image per service: docker build --build-arg SERVICE=api|generator|merger|muxer|ops .
# Packages are installed from requirements.lock by hash; a service gets only its own extra.
# It builds with the engine's own builder (20.10 and newer): no "# syntax=" line, and only the base
# image is pulled.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# Packages of every service: the same layer in every image.
FROM ${PYTHON_IMAGE} AS common
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1 \
    PIP_CACHE_DIR=/var/cache/pip
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY pyproject.toml requirements.lock deploy/image/pick.py ./
RUN --mount=type=cache,target=/var/cache/pip \
    python pick.py > common.txt \
    && python -m pip --python /opt/venv/bin/python install --require-hashes --no-deps -r common.txt

# Additional packages of one service, and its code.
FROM common AS service
ARG SERVICE=api
RUN --mount=type=cache,target=/var/cache/pip \
    python pick.py "$SERVICE" > service.txt \
    && mkdir -p /opt/extra \
    && python -m pip --python /opt/venv/bin/python install --require-hashes --no-deps \
         --target /opt/extra -r service.txt
COPY shared /app/shared
COPY services /all/services
COPY ops /all/ops
# A service has only its own folder; ops also has the services' settings and queries.
RUN if [ "$SERVICE" = ops ]; then \
      module=ops; cp -r /all/services /all/ops /app/; \
    else \
      module="services.$SERVICE"; mkdir /app/services; \
      cp -r /all/services/__init__.py "/all/services/$SERVICE" /app/services/; \
    fi \
    && printf '#!/bin/sh\nexec python -m %s "$@"\n' "$module" > /app/start \
    && chmod 0755 /app/start \
    && python -m compileall -q /app

FROM ${PYTHON_IMAGE}
ARG SERVICE=api
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent segue \
    && install -d -o segue -g segue /scratch
COPY --from=common /opt/venv /opt/venv
COPY --from=service /opt/extra /opt/venv/lib/python3.11/site-packages
COPY --from=service /app /app
# Ports inside the container; docker-compose.yml decides which are published.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SEGUE_IMAGE=$SERVICE \
    SEGUE_API_HOST=0.0.0.0 \
    SEGUE_API_PORT=4000 \
    SEGUE_HEALTH_HOST=0.0.0.0 \
    SEGUE_HEALTH_PORT=4001 \
    SEGUE_SCRATCH_DIR=/scratch
WORKDIR /app
USER 10001:10001
EXPOSE 4000 4001
# A command has no port: containers that run ops disable this.
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import os, urllib.request as r; port = os.environ['SEGUE_API_PORT' if os.environ['SEGUE_IMAGE'] == 'api' else 'SEGUE_HEALTH_PORT']; r.build_opener(r.ProxyHandler({})).open(f'http://127.0.0.1:{port}/readyz', timeout=3)"]
ENTRYPOINT ["/app/start"]
