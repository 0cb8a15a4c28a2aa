"""Sockets that another thread can cut: a request that waits for a silent server ends at once when the user stops it.

`openSession(line, …)` is a requests.Session whose connections report to a `Line`; `line.cut()` ends them all. Only
looking up a machine's name can't be cut short: the system does that.
"""

import contextlib
import errno
import os
import selectors
import socket
import ssl
import threading
import time
import weakref

LOOK_SECONDS = 0.1  # how often a connection in the making looks whether it is still wanted
UNDER_WAY = {errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK)}


class Line:
    """The live sockets of one client. Any thread may call."""

    def __init__(self):
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet = weakref.WeakSet()
        self.isCut = self.isLate = False

    def add(self, link: socket.socket) -> None:
        """Have a socket cut with the others; raises ConnectionAbortedError where that has happened already."""
        with self._lock:
            self._sockets.add(link)
            isCut = self.isCut
        if isCut:
            raise ConnectionAbortedError("cut")

    def cut(self) -> None:
        """End everything under way, and whatever would begin later."""
        self.isCut = True
        self._shut()

    @contextlib.contextmanager
    def within(self, seconds: float | None):
        """`with line.within(…):` ends what is under way inside when it takes longer; isLate tells so afterwards. None:
        it may take as long as it wants."""
        self.isLate = False
        clock = threading.Timer(seconds or 0, self._tooLate)
        clock.daemon, clock.name = True, "Perturbox clock"
        if seconds is not None:
            clock.start()
        try:
            yield
        finally:
            if seconds is not None:
                clock.cancel()
                clock.join()

    def _tooLate(self) -> None:
        self.isLate = True
        self._shut()

    def _shut(self) -> None:
        with self._lock:
            links = list(self._sockets)
        for link in links:
            with contextlib.suppress(OSError):  # closed already, or never connected
                link.shutdown(socket.SHUT_RDWR)

    def connect(self, host: str, port: int, seconds: float) -> socket.socket:
        """A connection to the first of the host's addresses that answers within `seconds`; raises OSError."""
        failure: OSError = OSError("the name has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            link = socket.socket(family, kind, protocol)
            try:
                self.add(link)
                self._reach(link, address, seconds)
                link.settimeout(seconds)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return link
            except OSError as error:
                failure = error
                link.close()
                if self.isCut:
                    break
        raise failure

    def _reach(self, link: socket.socket, address, seconds: float) -> None:
        """Connect a socket, never blocking for longer than a look; raises OSError."""
        link.setblocking(False)
        code = link.connect_ex(address)
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(link, selectors.EVENT_WRITE)
            while code in UNDER_WAY:
                ready = selector.select(LOOK_SECONDS)
                if self.isCut:
                    raise ConnectionAbortedError("cut")
                if ready:
                    code = link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    break
                if time.monotonic() > end:
                    raise TimeoutError("timed out")
        if code:
            raise OSError(code, os.strerror(code))


def openSession(line: Line, trustEnvironment: bool):
    """A requests.Session on that line, which never tries twice; trustEnvironment: whether proxies and certificates that
    environment variables name are used."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
    from urllib3.util.ssl_ import create_urllib3_context

    class Link(ssl.SSLSocket):
        def do_handshake(self, *arguments):
            line.add(self)  # it has taken the plain socket's place
            return super().do_handshake(*arguments)

    def reach(connection):
        try:
            return line.connect(connection.host, connection.port, connection.timeout)
        except TimeoutError as error:
            raise ConnectTimeoutError(connection, "no connection in time") from error
        except OSError as error:
            raise NewConnectionError(connection, f"no connection: {error}") from error

    class Plain(HTTPConnection):
        _new_conn = reach

    class Secure(HTTPSConnection):
        _new_conn = reach

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    context = create_urllib3_context()
    context.sslsocket_class = Link
    pools = {"http": PlainPool, "https": SecurePool}

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments, **options):
            super().init_poolmanager(*arguments, **options, ssl_context=context)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, proxy, **options):
            manager = super().proxy_manager_for(proxy, **options, ssl_context=context)
            if not proxy.lower().startswith("socks"):  # those have connections of their own
                manager.pool_classes_by_scheme = pools
            return manager

    session = requests.Session()
    session.trust_env = trustEnvironment
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(max_retries=0, pool_connections=1, pool_maxsize=1))
    return session
