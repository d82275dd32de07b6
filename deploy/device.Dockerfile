# The device: docker build -f deploy/device.Dockerfile -t bottlenet-device .
#   docker run -v /var/photos:/photos:ro -v bottlenet-spool:/spool -v /etc/bottlenet:/secrets:ro bottlenet-device \
#       --to wss://photos.example --token-file /secrets/token
FROM python:3.11-slim-bookworm
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE NOTICE deploy/device.txt ./
COPY src src
# device.txt has the SHA-256 of each package (lock.py); gcc compiles the codec, and goes again
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && pip install --no-cache-dir --only-binary=:all: --require-hashes --requirement device.txt \
    && pip install --no-cache-dir --no-index --no-deps --no-build-isolation . && pip check \
    && apt-get purge -y --auto-remove gcc libc6-dev && rm -rf /var/lib/apt/lists/* \
    && useradd --system bottlenet && install -d -o bottlenet /spool
USER bottlenet
WORKDIR /
# the spool outlives the container: what waits in it is all that a restart needs
VOLUME /spool
ENTRYPOINT ["bottlenet", "send", "/photos", "--watch", "--spool", "/spool"]
