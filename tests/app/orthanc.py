"""A DICOM server of a test's own: Debian's Orthanc on loopback, with a password, which writes down all it is asked."""

import hashlib
import json
import shutil
import subprocess
import time
from pathlib import Path

import httpx
from serving import free_port

BINARY = shutil.which("Orthanc")
PLUGINS = list(Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so*"))
MISSING = "needs Orthanc and its DICOMweb plugin; `apt-get install orthanc orthanc-dicomweb`"
USER, PASSWORD = "perturbox", "a-password-for-tests"
UP_SECONDS = 60

# Orthanc calls this before it answers; what was sent along is written down as method, address and Authorization.
RECORDER = """
function IncomingHttpRequestFilter(method, uri, ip, username, headers)
  local file = io.open("{seen}", "a")
  file:write(method .. " " .. uri .. " " .. (headers["authorization"] or "-") .. "\\n")
  file:close()
  return true
end
"""


class Orthanc:
    """Started in `folder`; `stop` and `start` it as often as needed, it keeps what it holds."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.seen = folder / "seen.txt"
        (folder / "recorder.lua").write_text(RECORDER.format(seen=self.seen))
        told = {
            "StorageDirectory": str(folder / "store"),
            "IndexDirectory": str(folder / "store"),
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "DicomServerEnabled": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "Plugins": [str(PLUGINS[0])],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "LuaScripts": [str(folder / "recorder.lua")],
        }
        (folder / "orthanc.json").write_text(json.dumps(told))
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", auth=(USER, PASSWORD), trust_env=False)
        self.start()

    @property
    def dicomweb(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def start(self) -> None:
        with (self.folder / "orthanc.log").open("a") as log:
            command = [str(BINARY), str(self.folder / "orthanc.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder)
        end = time.monotonic() + UP_SECONDS
        while True:
            try:
                assert self.http.get("/system").status_code == 200
                return
            except httpx.TransportError:
                log = (self.folder / "orthanc.log").read_text()
                assert self.process.poll() is None and time.monotonic() < end, log[-3000:]
                time.sleep(0.1)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def close(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.stop()

    def take_in(self, paths: list[Path]) -> None:
        """Store DICOM files."""
        for path in paths:
            assert self.http.post("/instances", content=path.read_bytes()).status_code == 200

    def holds(self) -> dict[str, tuple[str, str]]:
        """All instances by their UID: (series UID, hash of the stored pixels)."""
        found = {}
        for id in self.http.get("/instances").json():
            tags = self.http.get(f"/instances/{id}/simplified-tags").json()
            pixels = self.http.get(f"/instances/{id}/frames/0/raw").content
            found[tags["SOPInstanceUID"]] = (tags["SeriesInstanceUID"], hashlib.sha256(pixels).hexdigest())
        return found

    def asked(self) -> list[tuple[str, str, str]]:
        """(method, address, Authorization) of every request so far but those of this object's own."""
        lines = self.seen.read_text().splitlines() if self.seen.exists() else []
        found = [tuple(line.split(" ", 2)) for line in lines]
        return [line for line in found if line[1].startswith(("/dicom-web", "/wado"))]
