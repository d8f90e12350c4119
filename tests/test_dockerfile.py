"""The image, as far as it goes without Docker: what the Dockerfile copies is all that the program needs.

Real: the copied files alone in a folder, their static files gathered, the web process and the health check as the
Dockerfile starts them, PostgreSQL. Not real: the base image, pip (the packages are those of the tests), the user.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
from django.conf import settings

from tests.webserver import address_of_test_database, free_port, wait_until_it_listens

PATIENCE_S = 120.0
TEXT = (settings.BASE_DIR / "Dockerfile").read_text(encoding="utf-8")
LINES = [line for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def instructions(word):
    return [line.removeprefix(f"{word} ").strip() for line in LINES if line.startswith(f"{word} ")]


def environment(folder):
    """The image's own, with its folder for static files beside ours; and the tests' programs."""
    told = dict(part.split("=", 1) for part in shlex.split(instructions("ENV")[0]))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**told, "BYTEPORT_STATIC_ROOT": str(folder.parent / "static"), "PATH": path, "HOME": str(folder)}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A folder with the image's files, after its RUN."""
    folder = tmp_path_factory.mktemp("srv") / "byteport"
    folder.mkdir()
    for source, target in (line.split() for line in instructions("COPY")):
        copy = shutil.copytree if (settings.BASE_DIR / source).is_dir() else shutil.copy
        copy(settings.BASE_DIR / source, folder / target)
    collect = next(part for line in instructions("RUN") for part in line.split("&&") if "collectstatic" in part)
    run(folder, *shlex.split(f"env {collect}"))
    return folder


def run(folder, *argv, **more):
    env = {**environment(folder), **more}
    subprocess.run(argv, cwd=folder, env=env, check=True, timeout=PATIENCE_S, stdout=subprocess.DEVNULL)


@contextmanager
def web(folder):
    """The web process by the Dockerfile's CMD, on a free port."""
    port = free_port()
    argv = [part.replace("0.0.0.0:8000", f"127.0.0.1:{port}") for part in json.loads(instructions("CMD")[0])]
    env = {**environment(folder), "DATABASE_URL": address_of_test_database(), "BYTEPORT_SECRET_KEY": "x" * 50}
    process = subprocess.Popen(argv, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_it_listens(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.mark.proof
def test_the_copied_files_are_all_that_the_commands_need(image):
    setup = ["python", "manage.py", "check", "--fail-level", "ERROR"]
    run(image, *setup, DATABASE_URL="postgres://none", BYTEPORT_SECRET_KEY="x" * 50)


@pytest.mark.proof
@pytest.mark.django_db(transaction=True)
def test_the_web_process_serves_pages_styles_and_its_health_check(image):
    with web(image) as port:
        for path in ("healthz", "readyz", "login/"):
            assert urlopen(f"http://127.0.0.1:{port}/{path}", timeout=PATIENCE_S).status == 200
        page = urlopen(f"http://127.0.0.1:{port}/login/", timeout=PATIENCE_S).read().decode()
        [style] = set(re.findall(r'href="(/static/console/console[^"]*\.css)"', page))
        assert b"--tone" in urlopen(f"http://127.0.0.1:{port}{style}", timeout=PATIENCE_S).read()
        check = json.loads(instructions("HEALTHCHECK")[0].partition("CMD ")[2])
        run(image, *(part.replace(":8000", f":{port}") for part in check))
    with pytest.raises(subprocess.CalledProcessError):
        run(image, *(part.replace(":8000", f":{port}") for part in check))


def test_the_signs_of_life_can_be_looked_at_in_the_image(image, tmp_path):
    (tmp_path / "worker.alive").touch()
    run(image, "python", "-I", "-S", "byteport/pulse.py", "worker", "alive", BYTEPORT_PULSE_DIR=str(tmp_path))


def test_it_does_not_run_as_root_and_holds_no_secret():
    assert instructions("USER") == ["10001"]
    assert "ARG" not in {line.split()[0] for line in LINES}
    assert not any(name.endswith(("KEY", "TOKEN", "PASSWORD", "URL")) for name in environment(Path("/")))


def test_the_base_image_is_not_whatever_is_the_latest():
    [base] = instructions("FROM")
    assert re.fullmatch(r"python:3\.11(\.\d+)?-slim-\w+(@sha256:[0-9a-f]{64})?", base)


def test_nothing_is_copied_that_is_not_named():
    ignored = (settings.BASE_DIR / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", ".byteport", "tests", "charts"} <= set(ignored)
    assert all(line.split()[0] != "." for line in instructions("COPY"))
