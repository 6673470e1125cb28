# syntax=docker/dockerfile:1
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/wald
ENV PATH=/opt/wald/bin:$PATH
COPY requirements.txt .
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps -r requirements.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY app app
COPY bandits bandits
COPY stats stats
COPY migrations migrations
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps . && pip check

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home wald && install -d -o wald /data
COPY --from=build /opt/wald /opt/wald
ENV PATH=/opt/wald/bin:$PATH PYTHONUNBUFFERED=1 WALD_HOST=0.0.0.0 WALD_PORT=8000 WALD_DATA_DIR=/data
USER wald
VOLUME /data
EXPOSE 8000
# For `wald up` and `wald serve`. `wald worker` listens only with --port: use another check there.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 \
    CMD ["python", "-P", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"WALD_PORT\"]}/health', timeout=2)"]
ENTRYPOINT ["wald"]
CMD ["up"]
