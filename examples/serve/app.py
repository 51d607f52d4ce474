"""A service that explains pictures: drop one on a page, see classes and maps, refine on demand.

    pip install -e '.[serve]'
    python examples/serve/app.py runs/explainer/<run>

One explanation is made at a time; what is too large, too much or no picture is refused with one line.
"""

import argparse
import asyncio
import base64
import math
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from PIL import Image

from fastshap_lab import load_explainer
from fastshap_lab.errors import UserError
from fastshap_lab.images import read_rgb
from fastshap_lab.inference import AmortizedExplainer, Explanation

STATIC = Path(__file__).with_name("static")
WAITING = 8  # requests, before others are turned away
SLOWEST = 30  # seconds that the content of a picture may take to arrive
CLIENTS = 10_000  # of which it is remembered how much they have asked for
HEADERS = {
    # The page is this server's alone: neither scripts nor pictures from elsewhere, and no other page around it.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: Of HTTP.
        line: Why.
        wait: Seconds after which it may be tried again.
    """

    def __init__(self, status: int, line: str, wait: float | None = None) -> None:
        super().__init__(line)
        self.status, self.wait = status, wait


class Rate:
    """Lets each client ask so often a minute, a few times at once.

    Args:
        per_minute: Requests.
        burst: Requests that may come at once.
    """

    def __init__(self, per_minute: float, burst: int = 5) -> None:
        self.per_second, self.burst = per_minute / 60, burst
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when that was so

    def check(self, client: str) -> None:
        """Count a request; raise ``Refused`` where it is one too many."""
        now = time.monotonic()
        left, before = self._clients.pop(client, (float(self.burst), now))
        left = min(float(self.burst), left + (now - before) * self.per_second)
        self._clients[client] = (left - 1 if left >= 1 else left, now)
        if len(self._clients) > CLIENTS:
            self._clients.popitem(last=False)
        if left < 1:
            wait = math.ceil((1 - left) / self.per_second)
            raise Refused(429, f"too many requests; try again in {wait} s", wait)


def make_app(
    explainer: AmortizedExplainer, max_bytes: int = 10 * 2**20, max_refine: int = 2048, per_minute: float = 30.0
) -> FastAPI:
    """Return the service.

    Args:
        explainer: What answers.
        max_bytes: Of a picture's file.
        max_refine: Evaluations of the game that a request may spend.
        per_minute: Requests of a client.
    """
    app = FastAPI(title="fastshap_lab", docs_url=None, redoc_url=None)
    rate, one_at_a_time, waiting = Rate(per_minute), asyncio.Lock(), 0
    most = min(max_refine, 2 ** min(explainer.grid.num_players, 30) - 2)

    @app.middleware("http")
    async def _headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(Refused)
    async def _refused(_: Request, error: Refused) -> JSONResponse:
        headers = {} if error.wait is None else {"Retry-After": str(math.ceil(error.wait))}
        return JSONResponse({"error": str(error)}, error.status, headers)

    @app.exception_handler(UserError)
    async def _mistake(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 400)

    @app.get("/api/about")
    async def _about() -> dict[str, Any]:
        return {
            "classes": explainer.class_names,
            "grid": explainer.grid.shape,
            "image_size": explainer.grid.image_size,
            "link": explainer.link,
            "max_bytes": max_bytes,
            "max_refine": most,
        }

    @app.post("/api/explain")
    async def _explain(request: Request, refine: int = 0, classes: int = 4) -> dict[str, Any]:
        nonlocal waiting
        rate.check(request.client.host if request.client else "")
        if not 0 <= refine <= most:
            raise Refused(400, f"refine={refine}: must be 0 to {most}")
        if not 1 <= classes <= 20:
            raise Refused(400, f"classes={classes}: must be 1 to 20")
        content = await _content(request, max_bytes)
        if waiting >= WAITING:
            raise Refused(503, "busy; try again in a few seconds", 5)
        waiting += 1
        try:
            async with one_at_a_time:
                return await run_in_threadpool(_answer, explainer, content, refine, classes)
        finally:
            waiting -= 1

    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


async def _content(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request; no more of it is read than may be."""
    too_large = Refused(413, f"the picture has more than {max_bytes:,} bytes")
    if int(request.headers.get("content-length") or 0) > max_bytes:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(SLOWEST):
            async for part in request.stream():
                content += part
                if len(content) > max_bytes:
                    raise too_large
    except TimeoutError:
        raise Refused(408, f"the picture took more than {SLOWEST} s to arrive") from None
    return bytes(content)


def _answer(explainer: AmortizedExplainer, content: bytes, refine: int, classes: int) -> dict[str, Any]:
    start = time.perf_counter()
    explanation = explainer.explain(read_rgb(BytesIO(content)), refine=refine)
    task, predictions = explanation.task, explanation.predictions[0]
    order = task.ranks(predictions).argsort(descending=True, stable=True)[:classes].tolist()
    return {
        "predicted": task.in_words(predictions, explanation.classes),
        "picture": _data_address(explanation),
        "evaluations": int(explanation.evaluations[0]),
        "classes": [
            {
                "name": explanation.classes[number],
                "answer": task.answer_format.format(float(predictions[number])),
                "values": _numbers(explanation.values[0, number].tolist()),
                "stderr": None if explanation.stderr is None else _numbers(explanation.stderr[0, number].tolist()),
            }
            for number in order
        ],
        "seconds": round(time.perf_counter() - start, 3),
    }


def _numbers(rows: list[list[float]]) -> list[list[float | None]]:
    """Return numbers as JSON takes them: null for what is not finite."""
    return [[value if math.isfinite(value) else None for value in row] for row in rows]


def _data_address(explanation: Explanation) -> str:
    """Return what the model was shown, as an address that a page can draw."""
    buffer = BytesIO()
    pixels = explanation.images[0].mul(255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def main() -> None:
    """Load an explainer, and answer until somebody stops it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder or model folder of an explainer, or user/name of the hub")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all networks")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--per-minute", type=float, default=30.0, help="requests of each client")
    given = parser.parse_args()
    os.environ.setdefault("FASTSHAP_LAB_MAX_PIXELS", "16000000")  # of a picture, which takes 12 bytes a pixel
    try:
        explainer = load_explainer(given.model).to(given.device)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    app = make_app(explainer, per_minute=given.per_minute)
    uvicorn.run(app, host=given.host, port=given.port, limit_concurrency=64)


if __name__ == "__main__":
    main()
