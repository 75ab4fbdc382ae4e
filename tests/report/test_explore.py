"""`costsim explore` as people and strangers meet it: a process asked over HTTP, a browser."""

import json
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, chromium
from fork_server import PIPE, Process, run, start

ASKED = ("--ways", "2", "--shots", "1", "--inspect", "6")
"""Of a small task, which is scored in a moment."""


@dataclass(frozen=True)
class Server:
    """A running page: its process, its address, and the folder that it was started in."""

    process: Process
    address: str
    folder: Path

    @property
    def port(self) -> int:
        found = re.match(r"http://127\.0\.0\.1:(\d+)/", self.address)
        assert found
        return int(found[1])

    def get(
        self,
        address: str | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """Status and text of an answer."""
        request = urllib.request.Request(address or self.address, body, dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def ask(self, what: str, **controls: str) -> dict[str, Any]:
        """The answer to what the page asks."""
        status, text = self.post(what, {"device": "jetson-nano", **controls})
        assert status == 200, text
        found: dict[str, Any] = json.loads(text)
        return found

    def refused(self, what: str, **controls: str) -> str:
        """The one line of a mistake."""
        status, text = self.post(what, {"device": "jetson-nano", **controls})
        assert status == 422, text
        assert text.count("\n") == 1
        assert "Traceback" not in text
        return text.strip()

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()

    def post(self, what: str, document: object) -> tuple[int, str]:
        kind = {"Content-Type": "application/json"}
        return self.get(self.address + what, json.dumps(document).encode(), kind)


def started(folder: Path, *options: str) -> Server:
    process = start(
        ["-m", "costsim", "explore", "--no-browser", *options], cwd=folder, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    if not address:
        raise AssertionError(process.communicate())
    return Server(process, address, folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = started(tmp_path_factory.mktemp("explore"), "--device", "jetson-nano", *ASKED)
    yield found
    found.stop()


def without_clock(path: Path) -> str:
    """A plan file but for the seconds that its solver took."""
    return re.sub(r'"seconds": [^,\n]+', '"seconds": 0', path.read_text())


def test_the_page_holds_its_controls_with_labels_and_fetches_nothing(server: Server) -> None:
    status, page = server.get()
    assert status == 200
    for name in ("device", "accounting", "solver", "axis", "out"):
        assert f'<label for="{name}">' in page
    assert 'aria-live="polite"' in page
    assert not re.findall(r'(?:src|href)="(?!data:,)', page)
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.parametrize("path", ["", "wrong/", "wrong/plan", "%2e%2e/"])
def test_without_the_token_there_is_nothing(server: Server, path: str) -> None:
    status, told = server.get(f"http://127.0.0.1:{server.port}/{path}")
    assert (status, told.count("\n")) == (403, 1)
    assert "the token is missing or wrong" in told


def test_other_hosts_and_origins_are_refused_whatever_their_token(server: Server) -> None:
    own = f"127.0.0.1:{server.port}"
    for headers in (
        {"Host": "costsim.example"},
        {"Host": "127.0.0.1"},
        {"Host": f"{own}.example"},
        {"Origin": "http://costsim.example"},
        {"Origin": "null"},
        {"Origin": f"https://{own}"},
        {"Origin": f"http://localhost:{server.port + 1}"},
    ):
        assert server.get(headers=headers)[0] == 403, headers
    assert server.get(headers={"Origin": f"http://{own}"})[0] == 200
    assert server.get(headers={"Host": f"localhost:{server.port}"})[0] == 200


def test_a_dragged_budget_gives_the_plan_of_the_command(server: Server, tmp_path: Path) -> None:
    slider = {one["name"]: one for one in server.ask("plan")["sliders"]}["memory"]
    text = slider["stops"][slider["index"] - 12]
    answer = server.ask("plan", memory=text, macs="40%")
    out = tmp_path / "plan.json"
    saved = server.ask("save", memory=text, macs="40%", out=str(out))["saved"]
    assert f"--memory {text} --macs 40% {' '.join(ASKED)} --out {out}" in saved
    words = saved.partition("costsim ")[2].removesuffix(" does the same.").split()
    by_command = tmp_path / "command.json"
    words[words.index(str(out))] = str(by_command)
    done = run(["-m", "costsim", *words])
    assert done.returncode == 0, done.stderr
    assert without_clock(out) == without_clock(by_command)
    plan = json.loads(out.read_text())
    channels = sum(len(layer["channels"]) for layer in plan["layers"])
    assert f"Update {channels} channels in {len(plan['layers'])} of" in answer["sentence"]
    assert plan["solver"]["status"] == "optimal"


@pytest.mark.parametrize(
    "controls",
    [
        {"device": "pi-zero-2", "memory": "700KiB", "axis": "input"},
        {"accounting": "arena", "macs": "30%", "solver": "greedy"},
        {"storage": "1MB", "latency": "2s", "energy": "5J"},
        {"device": "stm32f746", "memory": "100KiB"},
    ],
)
def test_the_command_that_is_told_writes_the_file_that_is_saved(
    server: Server, tmp_path: Path, controls: dict[str, str]
) -> None:
    out = tmp_path / "plan.json"
    server.ask("save", **controls, out=str(out))
    told = server.ask("plan", **controls)["command"].split()
    assert told[:2] == ["costsim", "plan"]
    by_command = tmp_path / "command.json"
    done = run(["-m", "costsim", *told[1:-1], str(by_command)])
    assert done.returncode in (0, 1), done.stderr
    assert without_clock(out) == without_clock(by_command)


@pytest.mark.parametrize(
    ("controls", "told"),
    [
        ({"memory": "7 parsecs"}, "--memory: unknown unit 'parsecs'"),
        ({"macs": "-3"}, "--macs: cannot read '-3'"),
        ({"latency": "1KiB"}, "--latency: unknown unit 'KiB'"),
        ({"device": "no-such"}, "no-such"),
        ({"axis": "sideways"}, "--axis"),
        ({"solver": "guess"}, "guess"),
        ({"solver": "brute-force"}, "brute-force"),
        ({"accounting": "creative"}, "creative"),
        ({"colour": "red"}, "'colour' is unknown"),
        ({"memory": "1" * 2000}, "memory: a text of at most"),
    ],
)
def test_bad_values_are_answered_by_one_line(
    server: Server, controls: dict[str, str], told: str
) -> None:
    assert told in server.refused("plan", **controls).replace('"', "'")


@pytest.mark.parametrize(
    "body",
    ["", "{", "null", "[]", "{}", '{"device": 3}', "[" * 50_000, "9" * 60_000, '"' + "x" * 100_000],
)
def test_what_no_page_asks_is_answered_by_one_line(server: Server, body: str) -> None:
    for what in ("plan", "more", "save"):
        status, told = server.get(server.address + what, body.encode())
        assert (status, told.count("\n")) == (422, 1), (what, told)


def test_where_nothing_fits_it_says_what_would_do(server: Server) -> None:
    answer = server.ask("plan", memory="1KiB")
    assert not answer["holds"]
    assert "No plan is within the budgets" in answer["sentence"]
    assert "would do" in answer["sentence"]
    assert server.ask("more", memory="1KiB")["devices"]


def test_what_takes_longer_comes_after(server: Server) -> None:
    asked = {"memory": "700KiB"}
    assert "appears once you stop" in server.ask("plan", accounting="paper")["frontier"]
    more = server.ask("more", **asked)
    assert "64 KiB more " in more["more"]
    assert {"Raspberry Pi Zero 2 W", "STM32F746"} <= {
        name.partition(" (")[0] for name in re.findall(r'row">([^<]+)<', more["devices"])
    }
    drawn = server.ask("frontier", **asked)["frontier"]
    assert "proven plans" in drawn
    assert 'class="peak here' in drawn
    assert "The present plan: " in server.ask("plan", memory="650KiB")["frontier"]
    assert "The whole adaptation takes" in server.ask("whole", **asked)["sentence"]


def test_what_is_said_twice_or_is_no_name_of_a_file_is_refused(server: Server) -> None:
    assert server.post("save", {"device": "jetson-nano", "out": 5}) == (422, "out: 5 is no text\n")
    status, told = server.post("save", {"device": "jetson-nano", "out": None})
    assert (status, told) == (422, "out: None is no text\n")


def test_a_file_that_is_there_is_not_written_over(server: Server, tmp_path: Path) -> None:
    kept = tmp_path / "mine.json"
    kept.write_text("mine")
    assert "is there already" in server.refused("save", out=str(kept))
    assert kept.read_text() == "mine"
    assert "cannot be written" in server.refused("save", out=str(tmp_path / "none" / "a.json"))
    for name in ("\0", "x" * 5000, str(tmp_path), "~nobody-at-all/a.json"):
        server.refused("save", out=name)
    own = str(tmp_path / "own.json")
    server.ask("save", out=own)
    server.ask("save", out=own)


def test_ctrl_c_ends_it_quietly(tmp_path: Path) -> None:
    found = started(tmp_path, "--device", "jetson-nano", *ASKED)
    assert found.get()[0] == 200
    found.process.send_signal(signal.SIGINT)
    out, err = found.process.communicate()
    assert found.process.returncode == 0
    assert out == ""
    assert err.splitlines() == ["costsim: the page is at this address; Ctrl-C ends it"]


def test_the_page_in_a_browser(server: Server, tmp_path: Path) -> None:
    """It draws what it is answered, follows what is dragged, and says so to screen readers."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with Browser(program, server.address, tmp_path / "profile") as page:
        text = "document.getElementById('{}').textContent"
        page.until("document.body && document.body.dataset.settled === '1'")
        first = page.value(text.format("sentence"))
        assert first.startswith("Update ")
        assert page.value(text.format("said")).startswith("Update ")
        assert "64 KiB more" in page.value(text.format("more"))
        assert page.value("document.querySelectorAll('.peak').length") == 2
        ranges = "[...document.querySelectorAll('input[type=range]')]"
        assert page.value(f"{ranges}.every((one) => one.labels.length && one.ariaValueText)")
        page.value(
            "const range = document.getElementById('memory'); range.value -= 20; "
            "range.dispatchEvent(new Event('input')); 0"
        )
        page.until("document.body.dataset.settled === '2'")
        typed = page.value("document.getElementById('memory-text').value")
        assert f"--memory {typed} " in page.value(text.format("command"))
        said = page.value(text.format("sentence"))
        assert said != first
        assert said.startswith(server.ask("plan", memory=typed)["sentence"].rstrip("."))
        page.value(
            "const field = document.getElementById('macs-text'); field.value = 'many'; "
            "field.dispatchEvent(new Event('change')); 0"
        )
        page.until("!document.getElementById('mistake').hidden")
        assert page.value(text.format("mistake")).startswith("--macs: cannot read 'many'")
        assert page.value(
            "performance.getEntriesByType('resource').every((one) => "
            "one.name.startsWith(location.href))"
        )


def test_it_begins_with_a_plan(tmp_path: Path) -> None:
    """With all that the plan was made with, so that saving it again is the same file."""
    made = [
        *("plan", "--device", "pi-zero-2", *ASKED, "--axis", "both", "--macs", "40%", "--seed"),
        *("3", "--memory", "900KiB", "--iterations", "20", "--exclude", "blocks.13.*"),
    ]
    done = run(["-m", "costsim", *made, "--out", "plan.json"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = started(tmp_path, "./plan.json")
    try:
        page = found.get()[1]
        start = re.search(r"const START = (.*);", page)
        assert start
        found.post("save", {**json.loads(start[1]), "out": "again.json"})
        assert without_clock(tmp_path / "again.json") == without_clock(tmp_path / "plan.json")
    finally:
        found.stop()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"device": "unheard-of"}, "its device is not shipped"),
        ({"spec": "strange.py:make"}, "strange.py:make"),
    ],
)
def test_a_plan_it_cannot_begin_with_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, str], told: str
) -> None:
    done = run(
        ["-m", "costsim", "plan", "--device", "jetson-nano", *ASKED, "--out", "plan.json"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "plan.json").read_text()
    if "device" in change:
        text = text.replace('"jetson-nano"', f'"{change["device"]}"')
    else:
        text = text.replace('"spec": "mcunet-5fps"', f'"spec": "{change["spec"]}"')
        (tmp_path / "strange.py").write_text("raise SystemExit('run')")
    (tmp_path / "plan.json").write_text(text)
    done = run(["-m", "costsim", "explore", "--no-browser", "plan.json"], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_model_and_data_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def make(width: int = 8) -> nn.Module:\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.ReLU(), nn.Conv2d(width, 16, 3),"
        " nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))\n"
    )
    options = [
        *("--device", "pi-zero-2", "--model", "nets.py:make", "--model-args", "width=6"),
        *("--resolution", "32", "--ways", "2", "--shots", "2", "--memory=64KiB"),
    ]
    found = started(tmp_path, *options)
    try:
        answer = found.ask("plan", device="pi-zero-2", memory="48KiB")
        assert answer["holds"], answer
        assert "--memory 48KiB --model nets.py:make --model-args width=6" in answer["command"]
        found.ask("save", device="pi-zero-2", memory="48KiB", out="page.json")
        words = ["plan", *options[:-1], "--memory", "48KiB", "--out", "command.json"]
        done = run(["-m", "costsim", *words], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        by_page, by_command = (tmp_path / name for name in ("page.json", "command.json"))
        assert without_clock(by_page) == without_clock(by_command)
    finally:
        found.stop()
