"""A headless Chromium that is spoken to over a pipe: no port, no server, only files of this machine."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_S = 60.0


class Browser:
    """One tab.

    Attributes:
        happened: events of the page, in order: console, exceptions, log entries, requests.
    """

    def __init__(self, to: int, of: int) -> None:
        self._to, self._of, self._rest, self._id = to, of, b"", 0
        self.happened: list[dict[str, Any]] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.ask(f"{domain}.enable")

    def _messages(self) -> Iterator[dict[str, Any]]:
        until = time.monotonic() + PATIENCE_S
        while True:
            while b"\0" in self._rest:
                line, _, self._rest = self._rest.partition(b"\0")
                yield json.loads(line)
            if not select.select([self._of], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError("chromium does not answer")
            self._rest += os.read(self._of, 1 << 20)

    def _ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._id += 1
        message = {"id": self._id, "method": method, "params": parameters}
        os.write(self._to, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._id:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.happened.append(answer)
        raise AssertionError

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol to the tab."""
        return self._ask(method, self._session, **parameters)

    def open(self, file: Path, width: int, height: int = 800, *, dark: bool = False, scripts: bool = True) -> None:
        """Opens a file at this width and waits until it is there."""
        narrow = width < 600
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=narrow)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.happened.clear()
        self.ask("Page.navigate", url=file.resolve().as_uri())
        if not any(event.get("method") == "Page.loadEventFired" for event in self.happened):
            for event in self._messages():
                self.happened.append(event)
                if event.get("method") == "Page.loadEventFired":
                    break
        self.ask("Page.getFrameTree")  # what the page has caused comes before the answer

    def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def key(self, name: str, code: int) -> None:
        """Presses a key where the focus is."""
        text = {"text": "\r"} if name == "Enter" else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=name, code=name, windowsVirtualKeyCode=code, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=name, code=name, windowsVirtualKeyCode=code)

    def pointer(self, x: float, y: float) -> None:
        """Moves the mouse to a place of the window."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """What the page looks like, as PNG."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}} if whole else {}
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=whole, **clip)["data"]
        file.write_bytes(base64.b64decode(data))

    @property
    def complaints(self) -> list[str]:
        """Errors of the console, exceptions, and what the browser has blocked or found wrong."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Audits.issueAdded", "Runtime.consoleAPICalled")
        return [json.dumps(event["params"]) for event in self.happened if event.get("method") in kinds]

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for, also those that were blocked; what stands in an address itself is none."""
        asked = [e["params"]["request"]["url"] for e in self.happened if e.get("method") == "Network.requestWillBeSent"]
        return [address for address in asked if not address.startswith("data:")]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Starts Chromium with a fresh profile, and ends it with the processes that it has started."""
    assert CHROMIUM is not None
    ours, theirs = os.pipe(), os.pipe()  # we write to the first, they to the second
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}",
        "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage", "--disable-extensions",
    ]  # fmt: skip
    script = f'exec "$@" 3<&{ours[0]} 4>&{theirs[1]}'
    process = subprocess.Popen(
        ["bash", "-c", script, "chromium", CHROMIUM, *flags, "about:blank"], pass_fds=(ours[0], theirs[1]),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(ours[0])
    os.close(theirs[1])
    try:
        tab = Browser(ours[1], theirs[0])
        yield tab
        tab._ask("Browser.close")
        process.wait(timeout=20)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
        os.close(ours[1])
        os.close(theirs[0])
