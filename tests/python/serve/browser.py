"""A headless Chromium, driven over its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ["chromium", "chromium-headless-shell", "chromium-browser", "google-chrome"]
FLAGS = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    # Else a tab that another one covers stops drawing.
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-background-timer-throttling",
    # It shows what a test's own server sends, and containers have no user namespaces.
    "--no-sandbox",
]
#: Codes and texts of keys.
KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), " ": (32, " ")}


def find_chromium():
    """Its path. None: there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """The process. It is spoken to through a pipe, so no port and no other package is needed."""

    def __init__(self, binary):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        commands, self._in = os.pipe()
        self._out, answers = os.pipe()
        # The child's 3 and 4 must be free to become its ends.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
        script = f'exec "$0" "$@" 3<&{ends[0]} 4>&{ends[1]}'
        command = ["bash", "-c", script, binary, f"--user-data-dir={self._profile.name}", *FLAGS]
        self._process = subprocess.Popen(command, pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (commands, answers, *ends):
            os.close(end)
        self._buffer = b""
        self._last_id = 0
        #: By the session of a page.
        self.events = {}

    def close(self):
        self._process.terminate()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def send(self, method, session=None, **params):
        """Calls a method of the protocol and returns its result."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._keep(answer)

    def wait_for_event(self):
        self._keep(self._receive())

    def _keep(self, event):
        self.events.setdefault(event.get("sessionId"), []).append(event)

    def _receive(self):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._out], [], [], 30)
            piece = os.read(self._out, 1 << 16) if ready else b""
            assert piece, "Chromium does not answer"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


class Page:
    """A tab of its own: nothing is stored that another one would find."""

    def __init__(self, chromium):
        self._chromium = chromium
        self._context = chromium.send("Target.createBrowserContext")["browserContextId"]
        target = chromium.send("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = chromium.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events = chromium.events.setdefault(self._session, [])
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")
        self.resize(1440, 900)

    def close(self):
        self._chromium.send("Target.disposeBrowserContext", browserContextId=self._context)

    def before_load(self, script):
        """Runs in every document before its own scripts."""
        self._send("Page.addScriptToEvaluateOnNewDocument", source=script)

    def open(self, url):
        self._load("Page.navigate", url=url)

    def reload(self):
        self._load("Page.reload")

    def _load(self, method, **params):
        # Until its event has come, an expression may be asked of the page that goes.
        self.events.clear()
        self._send(method, **params)
        deadline = time.monotonic() + 30
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < deadline, f"the page does not load; {self.complaints()}"
            self._chromium.wait_for_event()

    def js(self, expression):
        """The value of an expression, which may be a promise."""
        answer = self._send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression, seconds=20):
        """Waits until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.js(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"never true: {expression}; {self.complaints()}"
            time.sleep(0.02)

    def text(self, selector):
        return self.js(f"document.querySelector({json.dumps(selector)})?.innerText")

    def focused(self):
        """The id or the text of what has the focus."""
        return self.js("document.activeElement.id || document.activeElement.innerText")

    def type(self, text):
        self._send("Input.insertText", text=text)

    def press(self, key, shift=False):
        code, text = KEYS[key]
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self._send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **event)
        self._send("Input.dispatchKeyEvent", type="keyUp", **event)

    def click(self, selector):
        """A click where the element is on the screen, as a person would."""
        box = self.js(f"""(() => {{
            const node = document.querySelector({json.dumps(selector)});
            node.scrollIntoView({{block: "nearest"}});
            const box = node.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2, box.width];
        }})()""")
        assert box[2] > 0, f"{selector} is not shown"
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def resize(self, width, height, scale=1):
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self._send("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, **features):
        """Media features, such as prefers_color_scheme="dark"."""
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self._send("Emulation.setEmulatedMedia", features=features)

    def accessible(self):
        """(role, name) of everything that can have the focus, as screen readers are told."""
        found = []
        for node in self._send("Accessibility.getFullAXTree")["nodes"]:
            properties = {each["name"]: each["value"].get("value") for each in node.get("properties", [])}
            if properties.get("focusable") and not node["ignored"]:
                found.append((node["role"]["value"], node.get("name", {}).get("value", "")))
        return found

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self._send("Page.captureScreenshot", format="png")["data"]))

    def complaints(self):
        """Errors and warnings of the console since the page was opened."""
        found = []
        for event in self.events:
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"])
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                found.append(params["args"])
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"])
        return found

    def requested(self):
        """Every URL that was asked for since the page was opened."""
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def _send(self, method, **params):
        return self._chromium.send(method, self._session, **params)
