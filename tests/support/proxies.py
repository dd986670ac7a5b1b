"""Real proxies in front of a gateway, with the configurations that we ship.

Only addresses and the certificate's path are replaced; a replacement that does not apply is an
error.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.gateway import Served
from tests.support.ports import free_ports
from tests.support.programs import needed
from tests.support.waiting import PATIENCE_S

FOLDER = Path(__file__).parents[2] / "config" / "proxy"
OURS = "127.0.0.1:8092"
KINDS = ("nginx", "haproxy", "caddy")


def certificate(folder: Path) -> Path:
    """Make a self-signed certificate for 127.0.0.1, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "site.pem"
    path.write_bytes(made.public_bytes(pem) + private)
    return path


class Proxy:
    """A proxy process in front of a gateway. It can be killed and restarted on the same ports."""

    def __init__(
        self, kind: str, folder: Path, behind: int, changed: Callable[[str], str] = str
    ) -> None:
        """Configure the proxy. `changed` edits the configuration that we ship."""
        self.port, self.tls_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"
        self.tls_url = f"https://127.0.0.1:{self.tls_port}"
        self.certificate = certificate(folder)
        self._folder = folder
        self._process: Process | None = None
        configure = {"nginx": self._nginx, "haproxy": self._haproxy, "caddy": self._caddy}[kind]
        shipped = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "caddy": "Caddyfile"}[kind]
        self._file = folder / shipped
        text = changed((FOLDER / shipped).read_text())
        self._command, text = configure(replaced(text, OURS, f"127.0.0.1:{behind}"))
        self._file.write_text(text)

    def _nginx(self, text: str) -> tuple[list[str], str]:
        text = replaced(text, "listen 80;", f"listen 127.0.0.1:{self.port};")
        text = replaced(text, "listen 443 ", f"listen 127.0.0.1:{self.tls_port} ")
        for name in ("/etc/nginx/site.pem", "/etc/nginx/site.key"):
            text = replaced(text, name, str(self.certificate))
        paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{path}_temp_path {self._folder}/{path};\n" for path in paths)
        log = f"{self._folder}/error.log"
        user = "user root;\n" if os.getuid() == 0 else ""  # the folder belongs to the test
        text = (
            f"{user}pid {self._folder}/pid;\nerror_log {log};\ndaemon off;\n"
            f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{text}}}\n"
        )
        return ["nginx", "-e", log, "-c", str(self._file)], text

    def _haproxy(self, text: str) -> tuple[list[str], str]:
        text = replaced(text, "bind :80\n", f"bind 127.0.0.1:{self.port}\n")
        text = replaced(text, "bind :443 ", f"bind 127.0.0.1:{self.tls_port} ")
        text = replaced(text, "/etc/haproxy/site.pem", str(self.certificate))
        return ["haproxy", "-q", "-db", "-f", str(self._file)], text

    def _caddy(self, text: str) -> tuple[list[str], str]:
        """Adapt the configuration: Caddy would request a certificate for the site's name."""
        name = "streams.example.org {"
        plain = replaced(text, name, f"http://127.0.0.1:{self.port} {{")
        tls = f"tls {self.certificate} {self.certificate}"
        secure = replaced(text, name, f"https://127.0.0.1:{self.tls_port} {{\n\t{tls}")
        alone = f"admin off\n\tauto_https disable_redirects\n\tstorage file_system {self._folder}"
        text = f"{{\n\t{alone}\n}}\n{plain}{secure}"
        return ["caddy", "run", "--adapter", "caddyfile", "--config", str(self._file)], text

    def trusting(self) -> ssl.SSLContext:
        """Return a client context for `tls_url`."""
        return ssl.create_default_context(cafile=str(self.certificate))

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            needed(self._command[0]),
            *self._command[1:],
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": str(self._folder)},
        )
        async with asyncio.timeout(PATIENCE_S):
            while not await self._passes_requests():
                await asyncio.sleep(0.02)

    async def _passes_requests(self) -> bool:
        """Return whether a request gets through. Accepting connections is not enough."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n")
            return b" 200 " in await reader.readline()
        except OSError:
            return False
        finally:
            writer.close()

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def replaced(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


@asynccontextmanager
async def before(
    kind: str, gateway: Served, folder: Path, changed: Callable[[str], str] = str
) -> AsyncIterator[Proxy]:
    async with asyncio.timeout(PATIENCE_S):
        while (await gateway.get("/readyz")).status != 200:  # HAProxy forwards nothing before
            await asyncio.sleep(0.01)
    proxy = await asyncio.to_thread(Proxy, kind, folder, gateway.port, changed)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.kill()
