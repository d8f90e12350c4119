"""BytePort's settings, all from the environment. `docs/settings.md` describes each; a test keeps that true.

What a channel of escalation needs to know is read in that channel's own file.
"""

import socket
from datetime import timedelta
from pathlib import Path

import dj_database_url
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from django.urls import reverse_lazy

from byteport import embedded
from byteport.environment import env, secret
from byteport.logs import logging_config

BASE_DIR = Path(__file__).resolve().parent.parent


def names_or_all(given: list[str] | None) -> frozenset[str] | None:
    """The names of a list that may be `none` or empty; None where nothing is given, which stands for all."""
    return None if given is None else frozenset(name.strip() for name in given) - {"", "none"}


STATE_DIR = embedded.state_dir()
DATABASE_URL = secret("DATABASE_URL")
EMBEDDED_POSTGRES = not DATABASE_URL

SECRET_KEY = secret("BYTEPORT_SECRET_KEY")
if not SECRET_KEY and not EMBEDDED_POSTGRES:
    raise ImproperlyConfigured(
        "Set BYTEPORT_SECRET_KEY (or BYTEPORT_SECRET_KEY_FILE): with DATABASE_URL, every process must share one key."
    )
SECRET_KEY = SECRET_KEY or embedded.kept_secret_key(STATE_DIR)
METRICS_TOKEN = secret("BYTEPORT_METRICS_TOKEN")
DEBUG = env.bool("BYTEPORT_DEBUG", False)
ALLOWED_HOSTS = env.list("BYTEPORT_ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS: list[str] = env.list("BYTEPORT_TRUSTED_ORIGINS", [])
# What this deployment holds back, whatever operators set: it can only make BytePort do less.
FORCE_DRY_RUN = env.bool("BYTEPORT_FORCE_DRY_RUN", False)
RUNBOOKS_ON = names_or_all(env.list("BYTEPORT_RUNBOOKS", None))  # None: all that are installed
HOST_NAME = env.str("BYTEPORT_HOST_NAME", "") or socket.gethostname()
LOCAL_HOST = env.bool("BYTEPORT_LOCAL_HOST", True)
ROLE = env.str("BYTEPORT_ROLE", "")
CLUSTER_NAME = env.str("BYTEPORT_CLUSTER_NAME", "default")
KUBECONFIG = env.str("BYTEPORT_KUBECONFIG", "")
KUBE_CONTEXTS: list[str] = env.list("BYTEPORT_KUBE_CONTEXTS", [])
DRILL_IMAGE = env.str("BYTEPORT_DRILL_IMAGE", "busybox:stable")
NODE_IMAGE = env.str("BYTEPORT_NODE_IMAGE", "")
NODE_PULL_SECRETS: list[str] = env.list("BYTEPORT_NODE_PULL_SECRETS", [])
NAMESPACE = env.str("BYTEPORT_NAMESPACE", "")
SSH_IDENTITY = env.str("BYTEPORT_SSH_IDENTITY", "")
SSH_KNOWN_HOSTS = env.str("BYTEPORT_SSH_KNOWN_HOSTS", "")
PUBLIC_URL = env.str("BYTEPORT_PUBLIC_URL", "http://127.0.0.1:8000").rstrip("/")
HTTPS = PUBLIC_URL.startswith("https://")
TELL_IN_DRY_RUN = env.bool("BYTEPORT_TELL_IN_DRY_RUN", False)
REMINDER_S = env.int("BYTEPORT_REMINDER_S", 0)

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_htmx",
    "django_q",
    "rest_framework",
    "django_filters",
    "knox",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "axes",
    "csp",
    "pgtrigger",
    "byteport.apps.BytePortConfig",
    "signals",
    "runbooks",
    "incidents",
]

MIDDLEWARE = [
    "byteport.middleware.probes",  # before the Host check: kubelet and Prometheus call by address
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "byteport.adminkit.ContentSecurityPolicy",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
    "byteport.middleware.DatabaseAway",
]

ROOT_URLCONF = "byteport.urls"
WSGI_APPLICATION = "byteport.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {
    "default": {
        **(embedded.django_database(STATE_DIR) if EMBEDDED_POSTGRES else dj_database_url.parse(DATABASE_URL)),
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
    }
}
DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 5)
DATABASES["default"]["OPTIONS"].setdefault("application_name", "byteport")  # by which its sessions know each other
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# django-q2. A lease outlives any task (retry > timeout); a failed task is acknowledged because the loop's own
# record, not the queue, decides whether and when a stage runs again.
TASK_TIMEOUT_S = env.int("BYTEPORT_TASK_TIMEOUT_S", 240)
TASK_LEASE_S = env.int("BYTEPORT_TASK_LEASE_S", 300)
Q_CLUSTER = {
    "name": "byteport",
    "broker_class": "byteport.queue.PostgresBroker",
    "workers": env.int("BYTEPORT_WORKERS", 4),
    "timeout": TASK_TIMEOUT_S,
    "retry": TASK_LEASE_S,
    "ack_failures": True,
    "max_attempts": 5,
    "catch_up": False,  # after an outage the sweep runs once, not once for each minute that was missed
    "save_limit": -1,
    "bulk": 1,
    "queue_limit": 1,
    "recycle": 5000,
    "label": "Task queue",
    "log_level": "WARNING",
}

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("MinimumLengthValidator", "CommonPasswordValidator", "NumericPasswordValidator")
]
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_TEMPLATE = "lockout.html"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
LOGIN_URL = reverse_lazy("login")
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = LOGIN_URL

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = "Lax"
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if env.bool("BYTEPORT_BEHIND_PROXY", False) else None
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF, "'unsafe-inline'"],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [SELF],
        "frame-ancestors": [NONE],
        "form-action": [SELF],
    }
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_048_576  # bytes; a larger webhook is answered with 413

# The API. Tokens are kept hashed; roles and scopes are in incidents.roles.
KNOX_TOKEN_MODEL = "incidents.ApiToken"  # noqa: S105 (a model's name)
MIGRATION_MODULES = {"knox": None}  # its own table of tokens is not used, and not made
REST_KNOX = {"AUTH_HEADER_PREFIX": "Bearer", "TOKEN_TTL": timedelta(days=90)}
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["incidents.api.auth.BearerToken", "incidents.api.auth.Session"],
    "DEFAULT_PERMISSION_CLASSES": ["incidents.api.auth.MayDo"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "incidents.api.problems.handled",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "BytePort",
    "DESCRIPTION": "What is happening, what BytePort did and why; and what an operator can do. See docs/api.md.",
    "VERSION": "1",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SERVE_PERMISSIONS": ["incidents.api.auth.MayDo"],
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {"IncidentStatusEnum": "signals.models.Status.choices"},
}

LANGUAGE_CODE = "en"
FORMAT_MODULE_PATH = "byteport.formats"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

STATIC_URL = "static/"
# Only where `collectstatic` has gathered the files (an image); else they are served from where they lie.
STATIC_ROOT = env.str("BYTEPORT_STATIC_ROOT", "") or None
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG

LOGGING_CONFIG = None
logging_config(level=env.str("BYTEPORT_LOG_LEVEL", "INFO"), form=env.str("BYTEPORT_LOG_FORMAT", "auto"))

UNFOLD = {
    "SITE_TITLE": "BytePort",
    "SITE_HEADER": "BytePort",
    "SITE_SUBHEADER": "Policies, sources, record",
    "SITE_URL": "/",
    "SITE_ICON": lambda _request: static("console/mark.svg"),
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda _request: static("console/mark.svg")}],
    "COLORS": {
        "primary": {  # the console's accent and its shades
            "50": "#eef1fd",
            "100": "#dfe5fb",
            "200": "#c5cff7",
            "300": "#9db1ff",
            "400": "#7088ee",
            "500": "#4c66dc",
            "600": "#3550c8",
            "700": "#3046b5",
            "800": "#2a3a8c",
            "900": "#27356f",
            "950": "#10172e",
        }
    },
    "SHOW_HISTORY": False,  # the audit trail has it, for every way in which a setting is changed
    "SHOW_VIEW_ON_SITE": False,
    "BORDER_RADIUS": "6px",
    "STYLES": [lambda _request: static("console/admin.css")],
    "SIDEBAR": {"show_search": False, "navigation": "byteport.adminkit.navigation"},
}
