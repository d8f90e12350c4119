# One image for the three kinds of process, and for the setup of each new version before them (docs/install.md):
#   docker run -e DATABASE_URL=… -e BYTEPORT_SECRET_KEY=… byteport              the web console
#   docker run --no-healthcheck … byteport python manage.py worker
#   docker run --no-healthcheck … byteport python manage.py watch
#   docker run --no-healthcheck … byteport python manage.py setup
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    BYTEPORT_LOG_FORMAT=json \
    BYTEPORT_STATIC_ROOT=/srv/static

WORKDIR /srv/byteport
COPY requirements.txt ./
RUN pip install --requirement requirements.txt

COPY manage.py ./
COPY byteport byteport
COPY signals signals
COPY runbooks runbooks
COPY incidents incidents
COPY templates templates
COPY static static
COPY docs docs

# The files of console and admin are gathered once; neither database nor secret is needed, nor kept, for that. The code is
# compiled here, since whoever runs it may write nothing.
RUN DATABASE_URL=postgres://none BYTEPORT_SECRET_KEY=none python manage.py collectstatic --no-input \
    && python -m compileall -q byteport signals runbooks incidents \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin byteport

# One heap for all threads, nearly: one each would not give back what a flood of alerts has taken.
ENV MALLOC_ARENA_MAX=2
USER 10001
EXPOSE 8000
# HTTP answers from here as long as the process is up; orchestrators ask /readyz for whether it is of use.
HEALTHCHECK --interval=30s --timeout=5s CMD ["python", "-I", "-S", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["gunicorn", "byteport.wsgi", "--bind", "0.0.0.0:8000", "--worker-class", "byteport.webworker.PatientWorker", "--workers", "2", "--threads", "8", "--worker-tmp-dir", "/dev/shm", "--no-control-socket"]
