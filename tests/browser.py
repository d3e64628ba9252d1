"""A headless Chromium on a pipe: pages are opened, looked at, clicked, and whatever they complain of is kept."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--mute-audio",
    "--remote-debugging-pipe",
)
DRAWN = "new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
PATIENCE = 60.0  # seconds for one answer: the machine may be busy


def chromium() -> str | None:
    """Where the browser is, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One Chromium; the protocol is JSON messages that end with a zero byte, on its file descriptors 3 and 4."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="netdoctor-browser-", ignore_cleanup_errors=True)
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        command = [program, *SWITCHES, f"--user-data-dir={self._profile.name}", "about:blank"]
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self._profile.name},
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers = itertools.count(1)
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, session: str = "", **params: Any) -> Any:
        """The result of a command; events that come meanwhile are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = monotonic() + PATIENCE
        while monotonic() < deadline:
            answer = self._receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)
        raise TimeoutError(method)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._from, 1 << 20)
            if not piece:
                raise RuntimeError("the browser has ended")
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def open(self, path: Path, width: int = 1600, height: int = 1000, dark: bool = False) -> Page:
        """Load a local file in a tab of its own."""
        return Page(self, path, width, height, dark)

    def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self.send("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()


class Page:
    """One tab with one page; its storage and permissions are its own.

    Attributes:
        context: What the browser calls this separation.
        milliseconds: From the navigation to the first frame after the page was complete.
    """

    def __init__(self, browser: Browser, path: Path, width: int, height: int, dark: bool) -> None:
        self._browser = browser
        self.context = browser.send("Target.createBrowserContext")["browserContextId"]
        target = browser.send("Target.createTarget", url="about:blank", browserContextId=self.context)["targetId"]
        self._session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.resize(width, height)
        self.prefer("dark" if dark else "light")
        self.send("Page.navigate", url=path.absolute().as_uri())
        self._wait("document.readyState === 'complete'")
        self.milliseconds = float(self.do(DRAWN))

    def send(self, method: str, **params: Any) -> Any:
        return self._browser.send(method, self._session, **params)

    def resize(self, width: int, height: int = 1000) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, theme: str) -> None:
        """What the system of the reader prefers: light or dark."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def do(self, script: str) -> Any:
        """The value of a JavaScript expression, promises awaited."""
        answer = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", script))
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.do("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30))))")

    def click(self, selector: str) -> None:
        """Press the middle of the first element that matches, as a mouse does."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.do(f"{find}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        self.settle()
        box = self.do(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({find}.getBoundingClientRect())")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = "none" if kind == "mouseMoved" else "left"
            self.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button=button, clickCount=1)
        self.settle()

    def hover(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Move the mouse over an element, at parts of its width and height."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.do(f"{find}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        self.settle()
        x, y, width, height = self.do(f"(b => [b.x, b.y, b.width, b.height])({find}.getBoundingClientRect())")
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + across * width, y=y + down * height)
        self.settle()

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key)
        self.settle()

    def screenshot(self, path: Path, whole: bool = True) -> None:
        image = self.send("Page.captureScreenshot", captureBeyondViewport=whole, **({} if not whole else self._clip()))
        path.write_bytes(base64.b64decode(image["data"]))

    def _clip(self) -> dict[str, Any]:
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def complaints(self) -> list[str]:
        """Errors, warnings and other console messages of the page so far."""
        found = []
        for event in self._events():
            params = event["params"]
            if event["method"] == "Runtime.consoleAPICalled":
                found.append(f"{params['type']}: {[each.get('value') for each in params['args']]}")
            elif event["method"] == "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                found.append(details.get("exception", {}).get("description", details["text"]))
            elif event["method"] == "Log.entryAdded":
                found.append(params["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """Addresses that the page asked for beside its own file; data inside the page is no request."""
        asked = [e["params"]["request"]["url"] for e in self._events() if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked[1:] if not url.startswith("data:")]

    def _events(self) -> list[dict[str, Any]]:
        self.do("1")  # whatever was sent before has arrived by then
        return [event for event in self._browser.events if event.get("sessionId") == self._session]

    def _wait(self, condition: str) -> None:
        deadline = monotonic() + PATIENCE
        while not self.do(condition) or self.do("location.href") == "about:blank":
            if monotonic() > deadline:
                raise TimeoutError(condition)

    def close(self) -> None:
        self._browser.send("Target.disposeBrowserContext", browserContextId=self.context)
