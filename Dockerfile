# One image for every part of the service, with what RabbitMQ or Redis, PostgreSQL and an S3 server need. Build it with
# `docker build -t file-intake .`, then `docker compose up`, or for one machine
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --init -p 127.0.0.1:8000:8000 -v intake:/data --stop-timeout 30 \
#     -e INTAKE_OPEN=true file-intake
# Without INTAKE_OPEN it starts once there is a token: docker run --rm -v intake:/data file-intake tokens create NAME

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# The dependencies first: they stay in the layer cache while only the code changes.
COPY requirements/scaled.txt requirements/build.txt requirements/
RUN python -m venv /opt/intake \
 && python -m venv /opt/build \
 && /opt/intake/bin/pip install --require-hashes -r requirements/scaled.txt \
 && /opt/build/bin/pip install --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY processors processors
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/intake/bin/pip install --no-deps --no-index /wheels/*.whl \
 && /opt/intake/bin/pip uninstall --yes pip

FROM python:3.11-slim
LABEL org.opencontainers.image.title="file-intake" \
      org.opencontainers.image.description="Takes files over HTTP, answers 202 once they are safe on disk, processes them in the background and reports on each job." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.base.name="python:3.11-slim"
ENV PATH=/opt/intake/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    INTAKE_HOST=0.0.0.0 \
    INTAKE_DATA_DIR=/data
# A volume takes over owner and mode of the folder it is first mounted on.
RUN groupadd --gid 10001 intake \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin intake \
 && install --directory --owner 10001 --group 10001 --mode 0700 /data
COPY --from=build /opt/intake /opt/intake
WORKDIR /data
VOLUME /data
USER 10001:10001
EXPOSE 8000
# SIGTERM drains: running attempts get INTAKE_DRAIN (20 s) to finish. Let the engine wait longer than that before it kills,
# with --stop-timeout or stop_grace_period; what is killed all the same is taken up again at the next start.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 CMD ["intake", "health"]
ENTRYPOINT ["intake"]
CMD ["serve"]
