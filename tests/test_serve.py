"""The service of ``examples/serve``: what it answers, and what it refuses."""

import base64
import io
import json
import os
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Event, Thread

import pytest
from PIL import Image

from tests import small

testclient = pytest.importorskip("fastapi.testclient", reason="the extra serve is not installed")
pytest.importorskip("uvicorn")

PLACE = Path(__file__).parents[1] / "examples" / "serve"
REFINEMENT = {"evaluations": [2, 60], "error": [0.1, 0.1], "target_factor": [1.0, 1.0], "others_factor": [1.0, 1.0]}


def loaded(name: str):
    """Return a program of the folder, which is no package."""
    spec = spec_from_file_location(f"serve_{name}", PLACE / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


serve = loaded("app")


@pytest.fixture(scope="module")
def explainer():
    return small.explainer(refinement=REFINEMENT)


@pytest.fixture
def client(explainer):
    with testclient.TestClient(serve.make_app(explainer, max_bytes=5000, per_minute=6000)) as client:
        yield client


@pytest.fixture
def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((small.images(1, (16, 24))[0] * 255).byte().permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_page_and_its_parts_are_served_and_nothing_else_may_be_loaded(client):
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        response = client.get(path)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(kind)
        assert "default-src 'self'" in response.headers["content-security-policy"]
    page = client.get("/").text
    assert "http" not in page
    for path in ("/app.py", "/../app.py", "/docs", "/nothing"):
        assert client.get(path).status_code == 404


def test_a_picture_is_explained_as_the_explainer_does(client, explainer, picture):
    about = client.get("/api/about").json()
    assert (about["classes"], about["grid"], about["max_refine"]) == (["cat", "dog", "eel"], [2, 3], 62)
    for refine in (0, 20):
        answer = client.post(f"/api/explain?refine={refine}&classes=2", content=picture).json()
        expected = explainer.explain(Image.open(io.BytesIO(picture)), refine=refine)
        best = expected.probabilities[0].argsort(descending=True)[:2]
        assert [one["name"] for one in answer["classes"]] == [expected.classes[number] for number in best]
        assert answer["predicted"] == expected.classes[best[0]]
        assert answer["evaluations"] == refine
        for one, number in zip(answer["classes"], best, strict=True):
            assert [value for row in one["values"] for value in row] == pytest.approx(
                expected.values[0, number].flatten().tolist(), abs=1e-6
            )
            assert float(one["answer"].split()[-1]) == pytest.approx(float(expected.probabilities[0, number]), abs=0.01)
            if refine:
                errors = expected.stderr[0, number].flatten().tolist()
                assert [value for row in one["stderr"] for value in row] == pytest.approx(errors, abs=1e-6)
            else:
                assert one["stderr"] is None
        shown = Image.open(io.BytesIO(base64.b64decode(answer["picture"].partition(",")[2])))
        assert shown.size == (12, 8)


@pytest.mark.parametrize(
    ("query", "content", "status", "line"),
    [
        ("", b"no picture", 400, "cannot be read as an image: cannot identify its format"),
        ("", b"", 400, "cannot be read as an image: "),
        ("", b"?" * 5001, 413, "the picture has more than 5,000 bytes"),
        ("?refine=-2", b"", 400, "refine=-2: must be 0 to 62"),
        ("?refine=64", b"", 400, "refine=64: must be 0 to 62"),
        ("?refine=many", b"", 400, "refine: Input should be a valid integer"),
        ("?classes=0", b"", 400, "classes=0: must be 1 to 20"),
    ],
)
def test_bad_input_is_one_line(client, query, content, status, line):
    response = client.post(f"/api/explain{query}", content=content)
    assert response.status_code == status
    assert response.json()["error"].startswith(line)
    assert "\n" not in response.json()["error"]


def test_of_a_body_that_does_not_say_its_size_no_more_is_read_than_may_be(client):
    taken = []

    def parts():
        for number in range(1000):
            taken.append(number)
            yield b"?" * 1000

    assert client.post("/api/explain", content=parts()).status_code == 413


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(client, monkeypatch):
    monkeypatch.setenv("FASTSHAP_LAB_MAX_PIXELS", "1000")
    buffer = io.BytesIO()
    Image.new("RGB", (100, 100)).save(buffer, "PNG")
    response = client.post("/api/explain", content=buffer.getvalue())
    assert response.status_code == 400
    assert "more than 1,000 pixels" in response.json()["error"]


def test_who_asks_too_often_is_told_when_to_come_back(explainer, picture, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(serve.time, "monotonic", lambda: now[0])
    with testclient.TestClient(serve.make_app(explainer, per_minute=6)) as client:
        codes = [client.post("/api/explain", content=picture).status_code for _ in range(6)]
        assert codes == [200] * 5 + [429]
        refused = client.post("/api/explain", content=picture)
        assert refused.json() == {"error": "too many requests; try again in 10 s"}
        assert refused.headers["retry-after"] == "10"
        now[0] += 10
        assert client.post("/api/explain", content=picture).status_code == 200
        assert client.post("/api/explain", content=picture).status_code == 429


def test_no_more_clients_are_remembered_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(serve, "CLIENTS", 3)
    rate = serve.Rate(60, burst=1)
    for client in ("a", "b", "c", "d"):
        rate.check(client)
    assert list(rate._clients) == ["b", "c", "d"]
    with pytest.raises(serve.Refused):
        rate.check("d")


def test_one_is_explained_at_a_time_and_a_long_queue_is_turned_away(client, picture, monkeypatch):
    going_on, running, most = Event(), [0], [0]
    answer = serve._answer

    def slow(*arguments):
        running[0] += 1
        most[0] = max(most[0], running[0])
        going_on.wait(20)
        running[0] -= 1
        return answer(*arguments)

    monkeypatch.setattr(serve, "_answer", slow)
    monkeypatch.setattr(serve, "WAITING", 2)
    codes = []
    threads = [
        Thread(target=lambda: codes.append(client.post("/api/explain", content=picture).status_code)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    while 503 not in codes and any(thread.is_alive() for thread in threads):
        threads[0].join(0.01)
    going_on.set()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200, 200, 503]
    assert most == [1]


def test_a_folder_that_is_no_explainer_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["app.py", "runs/explainer/none"])
    with pytest.raises(SystemExit) as end:
        serve.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: runs/explainer/none: no model folder, and no user/name of the hub\n"


OTHER_PAGE = """
import json
from PIL import Image
from tests.test_serve import REFINEMENT, loaded, small
import gradio
(event,) = loaded("gradio_app").make_demo(small.explainer(refinement=REFINEMENT)).fns.values()
picture = Image.open("cat.png")
said, figure = event.fn(picture, 20)
lines = []
for given in ((None, 0), (picture, 1)):
    try:
        event.fn(*given)
    except gradio.Error as error:
        lines.append(error.message)
print(json.dumps([said, len(figure.axes), *lines]))
"""


@pytest.mark.skipif(find_spec("gradio") is None, reason="the extra gradio is not installed")
def test_the_other_page_answers_the_same(explainer, picture, tmp_path):
    (tmp_path / "cat.png").write_bytes(picture)
    path = os.pathsep.join([str(PLACE.parents[1]), os.environ.get("PYTHONPATH", "")])
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": path}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", OTHER_PAGE], check=False, **options)  # its library warns of itself
    assert done.returncode == 0, done.stderr[-2000:]
    said, axes, *lines = json.loads(done.stdout.splitlines()[-1])
    expected = explainer.explain(Image.open(io.BytesIO(picture)), refine=20)
    assert said == pytest.approx(dict(zip(expected.classes, expected.probabilities[0].tolist(), strict=True)))
    assert axes >= 4
    assert lines == ["choose a picture", "refine=1: must be 2 or more, coalitions come in pairs"]
