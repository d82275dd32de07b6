# A machine of a Ray cluster, head or worker: docker build -f deploy/ray.Dockerfile -t bottlenet-ray .
#   deploy/rayservice.yaml starts it on Kubernetes; elsewhere: ray start, then bottlenet serve --engine ray
FROM python:3.11-slim-bookworm
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE NOTICE deploy/ray.txt ./
COPY src src
# wget: KubeRay looks with it whether a machine is well; ray.txt has the SHA-256 of each package (lock.py); gcc compiles
# the codec, and goes again
RUN apt-get update && apt-get install -y --no-install-recommends wget gcc libc6-dev \
    && pip install --no-cache-dir --only-binary=:all: --require-hashes --requirement ray.txt \
    && pip install --no-cache-dir --no-index --no-deps --no-build-isolation . && pip check \
    && apt-get purge -y --auto-remove gcc libc6-dev && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 bottlenet
# Ray's processes read these when they start; the same as `bottlenet serve --engine ray` sets with its own defaults
ENV RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_ENABLE_HA_PROXY=1 \
    RAY_SERVE_HAPROXY_BINARY_PATH=/usr/local/bin/bottlenet-haproxy \
    RAY_SERVE_HAPROXY_MAXCONN=4096 \
    RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S=3630 \
    RAY_SERVE_HAPROXY_METRICS_ENABLED=0 \
    RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=60 \
    RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S=5 \
    RAY_SERVE_SHUTDOWN_TIER_TIMEOUT_S=35 \
    RAY_SERVE_LOG_TO_STDERR=0 \
    BOTTLENET_HAPROXY_REQUEST_S=30
USER 1000
WORKDIR /home/bottlenet
EXPOSE 8000
