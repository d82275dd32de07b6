# The server: docker build -f deploy/server.Dockerfile -t bottlenet-server .
#   docker run -p 8000:8000 -v /srv/bundles:/bundles:ro -v /etc/bottlenet:/secrets:ro bottlenet-server \
#       --watch /bundles --tokens /secrets/tokens.txt --tls-cert /secrets/cert.pem --tls-key /secrets/key.pem
# For the page run `make page` first: it goes into the image with src.
FROM python:3.11-slim-bookworm
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE NOTICE deploy/server.txt ./
COPY src src
# server.txt has the SHA-256 of each package (lock.py); gcc compiles the codec, and goes again
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && pip install --no-cache-dir --only-binary=:all: --require-hashes --requirement server.txt \
    && pip install --no-cache-dir --no-index --no-deps --no-build-isolation . && pip check \
    && apt-get purge -y --auto-remove gcc libc6-dev && rm -rf /var/lib/apt/lists/* \
    && useradd --system bottlenet
USER bottlenet
WORKDIR /
EXPOSE 8000
# exec form: SIGTERM reaches the server, which finishes what it took
ENTRYPOINT ["bottlenet", "serve", "--host", "0.0.0.0", "--port", "8000", "--log-json"]
