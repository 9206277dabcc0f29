"""Processors that a test holds in its hand: the modification time of the uploaded file, which it may set, is the signal."""

import secrets
import time

from processors import Facts, Reject, StepContext, processor

END = 1
"""The modification time, in seconds, that says go on."""


@processor("test.hold")
def hold(ctx: StepContext) -> Facts:
    """Wait for the signal, and report how often the file was touched until then."""
    touched, before = 0, ctx.input.stat().st_mtime_ns
    while (now := ctx.input.stat().st_mtime_ns) != END * 10**9:
        touched += now != before
        before = now
        ctx.progress(touched, 10, "touches")
        time.sleep(0.01)
    return {"touched": touched}


@processor("test.nonce")
def nonce(ctx: StepContext) -> Facts:
    """Learn something that differs each time it runs, and write it into an artifact."""
    value = secrets.token_hex(16)
    ctx.output("nonce.txt", media_type="text/plain").write_text(value)
    return {"nonce": value}


@processor("test.flaky")
def flaky(ctx: StepContext) -> Facts:
    """Fail until the signal is there."""
    if ctx.input.stat().st_mtime_ns != END * 10**9:
        raise RuntimeError("not yet")
    return {"nonce": ctx.facts_of("test.nonce")["nonce"]}


@processor("test.chatter")
def chatter(ctx: StepContext) -> Facts:
    """Log what the file says, as it says it, and then raise it."""
    text = ctx.input.read_bytes().decode("utf-8", "surrogateescape")
    ctx.log.warning("it says %s", text)
    raise RuntimeError(text)


@processor("test.reject")
def reject(ctx: StepContext) -> Facts:
    """Refuse every file."""
    raise Reject("test-refused", "This file is refused.", hint="Send another.")


@processor("test.pages")
def pages(ctx: StepContext) -> Facts:
    """Make artifacts of types that a browser would run, would show, and would not know."""
    ctx.output("page.html", media_type="text/html").write_bytes(b"<script>alert(1)</script>")
    ctx.output("drawing.svg", media_type="image/svg+xml").write_bytes(b"<svg onload='alert(1)'/>")
    ctx.output("list.csv", media_type="text/csv").write_bytes(b"a,b\n")
    ctx.output("digits.bin", media_type="application/x-digits").write_bytes(b"0123456789" * 100)
    ctx.output("nothing.bin", media_type="application/octet-stream").write_bytes(b"")
    return {}
