"""Which clusters there are and with what credentials: the one that BytePort runs in, and the contexts of a kubeconfig.

Credentials are loaded by the official client (token files, exec plugins, client certificates) and stay in memory.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import msgspec
import urllib3
import yaml
from django.conf import settings
from kubernetes.client import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config import ConfigException, incluster_config, list_kube_config_contexts, load_kube_config

from byteport.clients.kubernetes.errors import Unavailable
from byteport.core.errors import Permanent

T = TypeVar("T")

CREDENTIALS_TIMEOUT_S = 60.0  # an exec plugin may have to ask a cloud
POOL_CONNECTIONS = 32

BROKEN = (ConfigException, yaml.YAMLError, OSError, KeyError, TypeError, AttributeError, ValueError)


class Endpoint(msgspec.Struct, frozen=True):
    """How a cluster is reached: the API server's address, the pool of connections, and the credentials."""

    url: str
    pool: urllib3.PoolManager
    configuration: Configuration

    def authorization(self) -> str:
        """The header's value; empty where a client certificate or nothing speaks for BytePort."""
        try:
            value = (self.configuration.get_api_key_with_prefix("BearerToken") or "").strip()
        except BROKEN as error:
            raise Permanent(f"The credentials for {self.url} cannot be read: {error}") from error
        if not value.isprintable() or not value.isascii():
            raise Permanent(f"The token for {self.url} holds a character that no token has.")
        return value


def cluster_names() -> list[str]:
    """The clusters that are configured, by the names that their resources bear.

    Raises Permanent when the kubeconfig cannot be read.
    """
    own = [settings.CLUSTER_NAME] if runs_in_cluster() else []
    return [*own, *(name for name in kube_contexts() if name not in own)]


def is_known(place: str) -> bool:
    return place in cluster_names()


def is_pod() -> bool:
    """Whether this runs in a cluster at all, be it without credentials for it."""
    return bool(os.environ.get(incluster_config.SERVICE_HOST_ENV_NAME))


def runs_in_cluster() -> bool:
    """Whether this is a pod with a service account's token."""
    return is_pod() and Path(incluster_config.SERVICE_TOKEN_FILENAME).is_file()


def kube_contexts() -> list[str]:
    """The contexts of the kubeconfig that BytePort is to watch: those that are listed, or else the current one."""
    if not settings.KUBECONFIG:
        return []
    try:
        contexts, current = list_kube_config_contexts(settings.KUBECONFIG)
    except BROKEN as error:
        raise Permanent(f"BYTEPORT_KUBECONFIG={settings.KUBECONFIG} cannot be read: {error}") from error
    known = [str(context["name"]) for context in contexts]
    wanted = settings.KUBE_CONTEXTS or [str(current["name"])]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise Permanent(f"{settings.KUBECONFIG} has no context {missing[0]!r}; it has: {', '.join(known)}.")
    return list(wanted)


_endpoints: dict[str, Endpoint] = {}
_lock = threading.Lock()


def endpoint_of(place: str) -> Endpoint:
    """How to reach a cluster. Credentials are loaded once, and again after `forget`. Raises Permanent, Unavailable."""
    with _lock:
        known = _endpoints.get(place)
    if known is not None:
        return known
    loaded = in_time(lambda: _loaded(place), f"The credentials for {place}")
    with _lock:
        return _endpoints.setdefault(place, loaded)


def forget(place: str) -> None:
    """Has the credentials loaded anew at the next request: they were refused, or the kubeconfig has changed."""
    with _lock:
        _endpoints.pop(place, None)


def _forget_all() -> None:
    """A forked process must not share its parent's connections."""
    global _lock  # noqa: PLW0603 (the parent's may be held at the moment of the fork)
    _lock = threading.Lock()
    _endpoints.clear()


os.register_at_fork(after_in_child=_forget_all)


def in_time(load: Callable[[], T], what: str) -> T:
    """Runs what may hang (a program of somebody else's), but does not wait for it for ever."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(load())
        except BaseException as error:  # noqa: BLE001 (raised again by whoever waits)
            done.set_exception(error)

    threading.Thread(target=run, name="credentials", daemon=True).start()
    try:
        return done.result(CREDENTIALS_TIMEOUT_S)
    except TimeoutError as error:
        raise Unavailable(f"{what} were not given within {CREDENTIALS_TIMEOUT_S:g} s.") from error


def _loaded(place: str) -> Endpoint:
    configuration = Configuration()
    configuration.connection_pool_maxsize = POOL_CONNECTIONS
    configuration.keep_alive = True  # a watch that a firewall has forgotten must not be waited on for ever
    try:
        _load_into(configuration, place)
        pool = RESTClientObject(configuration).pool_manager
    except BROKEN as error:
        raise Permanent(f"The credentials for {place} cannot be loaded: {error}") from error
    return Endpoint(configuration.host.rstrip("/"), pool, configuration)


def _load_into(configuration: Configuration, place: str) -> None:
    if runs_in_cluster() and place == settings.CLUSTER_NAME:
        incluster_config.load_incluster_config(client_configuration=configuration)
    elif place in kube_contexts():
        path = settings.KUBECONFIG
        load_kube_config(path, context=place, client_configuration=configuration, persist_config=False)
        configuration.refresh_api_key_hook = None  # it might run a program: `forget` does so, within bounds
    else:
        raise Permanent(f"BytePort knows no cluster {place!r}.")
