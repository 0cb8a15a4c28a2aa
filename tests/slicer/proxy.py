"""A proxy in front of a real server that misbehaves at one moment of a job as it is told to, and is true otherwise."""

import http.client
from urllib.parse import urlsplit

from misbehaving import Handler, Misbehaving

DROPPED = {"connection", "keep-alive", "transfer-encoding", "date", "server", "content-length"}


class Forward(Handler):
    """Answers as the real server does; faults come before that, `changes` after."""

    def answer(self) -> None:
        moment, _ = self.moment()
        owner = self.server.owner
        owner.calls.append((moment, self.command, self.path, dict(self.headers)))
        fault = owner.faults.get(moment)
        if fault is not None:
            fault(self)
            return
        status, headers, body = self.ask()
        if moment in owner.changes:
            body = owner.changes[moment](body, self.path)
        headers["Content-Length"] = str(len(body))
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def ask(self):
        """The real server's (status, headers, body)."""
        link = http.client.HTTPConnection(urlsplit(self.server.owner.upstream).netloc, timeout=60)
        try:
            kept = {name: text for name, text in self.headers.items() if name.lower() not in ("host", "connection")}
            link.request(self.command, self.path, self.body(), kept)
            answer = link.getresponse()
            headers = {name: text for name, text in answer.getheaders() if name.lower() not in DROPPED}
            return answer.status, headers, answer.read()
        finally:
            link.close()


class Proxy(Misbehaving):
    """faults: {moment: what is done instead of forwarding}; changes: {moment: function of (body, path) -> body}."""

    handler = Forward

    def __init__(self, upstream: str, token: str = ""):
        super().__init__(token=token)
        self.upstream = upstream
        self.changes: dict = {}
