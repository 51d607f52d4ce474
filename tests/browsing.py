"""A Chromium that is found, driven by Playwright, and what a page may do in it.

Nothing is trained while it runs: PyTorch and Playwright's coroutines do not share a stack.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def opened(browser, path, width=1280, theme="light", **options) -> Iterator:
    """Yield a page, and see that it complains of nothing and asks for nothing but itself."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
    page, complaints, requests = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.resolve().as_uri())
    yield page
    page.wait_for_timeout(50)
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [path.resolve().as_uri()]
    context.close()


def number_in(text: str, before: str = "") -> float:
    """Return the first number after a text."""
    found = re.search(r"[−+]?[\d.,]*\d", text[text.index(before) + len(before) :])
    assert found is not None
    return float(found.group().replace("−", "-").replace(",", ""))


def until(page, expression: str) -> None:
    """Wait until an expression holds: Playwright's own way evaluates text within the page, which its policy forbids."""
    end = time.monotonic() + 10
    while not page.evaluate(f"Boolean({expression})"):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)
