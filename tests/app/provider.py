"""An identity provider of a test's own, on loopback: as much of one as MONAI Label's login asks for."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

PASSWORD = "a-password-for-tests"
ROLES = {
    "admin": ["monailabel-admin", "monailabel-reviewer", "monailabel-annotator", "monailabel-user"],
    "annotator": ["monailabel-annotator", "monailabel-user"],
    "user": ["monailabel-user"],
    "stranger": [],
}


def new_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Provider:
    """Knows the users of ROLES, all by one password; `asked` counts what it was asked for."""

    def __init__(self):
        self.key, self.asked, provider = new_key(), [], self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                provider.asked.append(self.path)
                if self.path == "/realms/clinic":
                    self.tell(200, {"realm": "clinic", "public_key": provider.public_key()})
                elif self.path == "/realms/clinic/.well-known/openid-configuration":
                    self.tell(200, {"token_endpoint": f"{provider.url}/token"})
                else:
                    self.tell(404, {})

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                provider.asked.append(self.path)
                known = form.get("username") in ROLES and form.get("password") == PASSWORD
                if self.path != "/token" or form.get("grant_type") != "password" or not known:
                    self.tell(401, {"error": "invalid_grant"})
                else:
                    token = provider.token(form["username"])
                    self.tell(200, {"access_token": token, "token_type": "Bearer", "refresh_token": "kept back"})

            def tell(self, status, document):
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.realm = f"{self.url}/realms/clinic"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def public_key(self) -> str:
        """Base64 without the frame, as Keycloak shows it."""
        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        pem = self.key.public_key().public_bytes(serialization.Encoding.PEM, kind).decode()
        return "".join(pem.strip().splitlines()[1:-1])

    def token(self, user: str, seconds: float = 600, key=None) -> str:
        claims = {"preferred_username": user, "realm_access": {"roles": ROLES[user]}, "exp": time.time() + seconds}
        return jwt.encode(claims, key or self.key, algorithm="RS256")

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
