"""The web process: `gunicorn byteport.wsgi`."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "byteport.settings")
application = get_wsgi_application()
