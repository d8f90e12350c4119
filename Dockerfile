# One image for the three kinds of process: web (the default), `worker` and `watch`.
#   docker run -e DATABASE_URL=… -e BYTEPORT_SECRET_KEY=… byteport              the web console
#   docker run … byteport python manage.py worker
#   docker run … byteport python manage.py watch
#   docker run … byteport python manage.py setup
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
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

# The files of console and admin are gathered once; neither database nor secret is needed, nor kept, for that.
RUN DATABASE_URL=postgres://none BYTEPORT_SECRET_KEY=none python manage.py collectstatic --no-input \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin byteport

USER 10001
EXPOSE 8000
# HTTP answers from here as long as the process is up; orchestrators ask /readyz for whether it is of use.
HEALTHCHECK --interval=30s --timeout=5s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["gunicorn", "byteport.wsgi", "--bind", "0.0.0.0:8000", "--worker-class", "gthread", "--workers", "2", "--threads", "8", "--worker-tmp-dir", "/dev/shm", "--no-control-socket"]
