"""A real headless Chromium, spoken to through its own pipe: what a page logs, how wide it is, how it looks.

Run it to look at a page yourself: ``python tests/report/browser.py report.html phone.png 390``.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PHONE, DESKTOP = (390, 844), (1280, 900)
DEADLINE = 60.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class View:
    """What a page looked like at one width.

    Attributes:
        problems: texts of console messages, exceptions and log entries of the browser: there should be none.
        requests: addresses that were asked for, the page's own first.
        content_width: CSS pixels that the content takes; wider than the window means scrolling sideways.
        text: as a reader sees it.
        alerts: dialogues that a script of the page opened.
        image: PNG of the whole page.
    """

    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    content_width: int = 0
    text: str = ""
    image: bytes = b""


class Browser:
    """One Chromium. Messages are JSON between zero bytes (``--remote-debugging-pipe``)."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self._process, self._write, self._read = process, write, read
        self._buffer = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []

    def look(self, page: Path, size: tuple[int, int]) -> View:
        """Open a file in a window of ``size`` and see what happens."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        width, height = size
        mobile = width < 600
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if mobile else 1, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", session, **metrics)
        self._events.clear()
        self.call("Page.navigate", session, url=page.absolute().as_uri())
        view = View()
        self._until("Page.loadEventFired", view, session)
        view.content_width = self._value(session, "document.documentElement.scrollWidth")
        view.text = self._value(session, "document.body.innerText")
        height = self._value(session, "Math.ceil(document.documentElement.scrollHeight)")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 16_000), "scale": 1}
        shot = self.call("Page.captureScreenshot", session, clip=clip, captureBeyondViewport=True)
        view.image = base64.b64decode(shot["data"])
        for event in self._events:
            _take(event, view)
        self.call("Target.closeTarget", targetId=target)
        return view

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def _until(self, method: str, view: View, session: str) -> None:
        while not any(event.get("method") == method for event in self._events):
            event = self._receive()
            self._events.append(event)
            if event.get("method") == "Page.javascriptDialogOpening":
                view.alerts.append(event["params"]["message"])
                self.call("Page.handleJavaScriptDialog", session, accept=True)

    def _value(self, session: str, expression: str) -> Any:
        return self.call("Runtime.evaluate", session, expression=expression)["result"]["value"]

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + DEADLINE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._read, 1 << 20) if ready else b""
            if not data:
                raise TimeoutError(f"Chromium did not answer (exit status {self._process.poll()}).")
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        decoded: dict[str, Any] = json.loads(message)
        return decoded


def _take(event: dict[str, Any], view: View) -> None:
    method, told = event.get("method"), event.get("params", {})
    if method == "Runtime.consoleAPICalled":
        view.problems.append(f"console.{told['type']}: {told['args']}")
    elif method == "Runtime.exceptionThrown":
        view.problems.append(f"exception: {told['exceptionDetails']['text']}")
    elif method == "Log.entryAdded":
        view.problems.append(f"{told['entry']['level']}: {told['entry']['text']}")
    elif method == "Network.requestWillBeSent":
        view.requests.append(told["request"]["url"])


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """A Chromium with a profile of its own, gone afterwards."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    options += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"]
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        # Chromium reads from 3 and writes to 4.
        pipes = f'exec "$0" "$@" 3<&{to_read} 4>&{from_write}'
        process = subprocess.Popen(
            ["bash", "-c", pipes, path, *options, f"--user-data-dir={profile}"],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        try:
            yield Browser(process, to_write, from_read)
        finally:
            os.close(to_write)  # a Chromium whose pipe is closed goes
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(from_read)


def main() -> None:
    page, image, width = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    found = find_chromium()
    assert found is not None, f"none of {', '.join(NAMES)} is installed"
    with chromium(found) as browser:
        view = browser.look(page, (width, 900))
    image.write_bytes(view.image)
    print(
        f"{width} px window, content {view.content_width} px; problems: {view.problems}; requests: {len(view.requests)}"
    )


if __name__ == "__main__":
    main()
