"""Texts: deep, long, ambiguous, of no encoding or of several, with entities and formulas; and files of next to nothing."""

from __future__ import annotations

from random import Random

from tests.hostile.containers import LAUGHS
from tests.hostile.corpus import add, hostile

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'

for length in (0, 1, 2, 3, 4, 7, 8, 11, 12):
    add(f"zeros-{length}.bin", bytes(length))
add("one-byte-ff", b"\xff")
add("only-newlines.txt", b"\n" * 10_000_000)
add("only-spaces.txt", b" " * 10_000_000)
hostile("one-line-of-64-megabytes.csv", heavy=True)(lambda _: b"a," + b"x" * 64_000_000)
add("one-field-of-10-megabytes.csv", b'a,b\n1,"' + b"x" * 10_000_000 + b'"\n')
add("open-quote.csv", b'a,b\n"' + b"1,2\n" * 500_000)
add("million-columns.csv", b"a," * 1_000_000 + b"\n" + b"1," * 1_000_000)
add("formulas.csv", b'name,value\n=HYPERLINK("http://evil"),+1\n-1,@SUM(A1)\n\t=1,\r=2\n\xef\xbc\x9d1,x\n')
add("nuls.csv", b"a,b\n1,\x00\x00\n" * 1000)
add("every-control.txt", bytes(range(32)) * 100 + b"\x7f\x1b[31mred\x1b]0;title\x07")
add("escapes.txt", b"\x1b[2J\x1b]52;c;AAAA\x07\x1bP\x9b31m" * 500)
add("bidi.txt", "\u202e\u2066abc\u2069\u200b\ufeff\u2028\u2029".encode() * 1000)
add("utf16-without-mark.txt", ("Grüße und Küsse\r\n" * 1000).encode("utf-16-le"))
add("utf16-odd.txt", b"\xff\xfe" + b"a\0" * 1000 + b"a")
add("utf16-lone-surrogates.txt", b"\xff\xfe" + b"\x00\xd8" * 1000)
add("utf32-mark-only.txt", b"\xff\xfe\0\0")
add("utf32-beyond.txt", b"\xff\xfe\0\0" + b"\xff\xff\xff\x7f" * 100)
add("utf8-overlong.txt", b"\xc0\xaf\xe0\x80\xaf\xf0\x80\x80\xaf" * 1000)
add("utf8-surrogates.txt", b"\xed\xa0\x80\xed\xbf\xbf" * 1000)
add("utf8-five-bytes.txt", b"\xf8\x88\x80\x80\x80" * 1000)
add("utf7.txt", b"+ADw-script+AD4-alert(1)+ADw-/script+AD4-" * 100)
hostile("high-bytes.txt")(lambda chance: bytes(chance.choices(range(128, 256), k=3_000_000)))
hostile("noise.bin")(lambda chance: chance.randbytes(3_000_000))
hostile("mixed-encodings.txt")(
    lambda _: b"".join(
        "Grüße €uro Привет 你好\n".encode(code, "replace") for code in ("utf-8", "cp1252", "koi8-r", "gb18030") * 2000
    )
)
add("json-100000-deep.json", b"[" * 100_000)
add("json-100000-deep-and-closed.json", b"[" * 100_000 + b"]" * 100_000)
add("json-deep-objects.json", b'{"a":' * 50_000 + b"1" + b"}" * 50_000)
add("json-million-digits.json", b"[" + b"9" * 1_000_000 + b"]")
add("json-huge-exponent.json", b"[1e999999999, -1e999999999, NaN, Infinity]")
add("json-same-key.json", b"{" + b'"a":1,' * 300_000 + b'"a":1}')
add("json-lone-surrogate.json", b'{"\\ud800": "\\udfff", "\\u0000": 1}')
add("json-cut-string.json", b'{"a": "' + b"x" * 5_000_000)
add("json-lines-of-nonsense.ndjson", b'{"a":1}\n' * 1000 + b"[[[[\n" * 1000)
add("xml-laughs.xml", LAUGHS + b"<l>&a29;</l>")
add("xml-quadratic.xml", b'<!DOCTYPE l [<!ENTITY a "' + b"x" * 100_000 + b'">]><l>' + b"&a;" * 100_000 + b"</l>")
add("xml-external.xml", b'<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]><l>&a;</l>')
add("xml-parameter.xml", b'<!DOCTYPE l [<!ENTITY % a SYSTEM "http://127.0.0.1:1/x.dtd"> %a;]><l/>')
add("xml-100000-deep.xml", b"<a>" * 100_000)
add("xml-100000-attributes.xml", b"<a " + b" ".join(b'a%d="1"' % n for n in range(100_000)) + b"/>")
add("xml-name-of-5-megabytes.xml", b"<" + b"a" * 5_000_000 + b"/>")
add("xml-encoding-lies.xml", b'<?xml version="1.0" encoding="utf-16"?><a/>')
add("xml-encoding-unknown.xml", b'<?xml version="1.0" encoding="' + b"x" * 1000 + b'"?><a/>')
add("xml-utf7.xml", b'<?xml version="1.0" encoding="utf-7"?>+ADw-a/+AD4-')
add("svg-laughs.svg", LAUGHS + SVG + b"<text>&a29;</text></svg>")
add("svg-external.svg", SVG + b'<use xlink:href="file:///etc/passwd#a"/><image href="http://127.0.0.1:1/x"/></svg>')
add("svg-script.svg", SVG + b"<script>alert(1)</script></svg>")
add("svg-cut.svg", SVG + b"<g>" * 100_000)
add("html-100000-deep.html", b"<!DOCTYPE html><html><body>" + b"<div>" * 100_000)
add("html-open-comment.html", b"<!DOCTYPE html><html><!--" + b"-" * 3_000_000)
add("html-open-tag.html", b"<!DOCTYPE html><html " + b"a" * 3_000_000)
add("html-entities.html", b"<!DOCTYPE html><html>" + b"&" * 1_000_000)
add("html-declarations.html", b"<!DOCTYPE html><html>" + b"<![" * 100_000)
add("html-script.html", b"<!DOCTYPE html><html><script>alert(1)</script></html>")
add("mail.eml", b"Subject: =?utf-8?b?" + b"QQ" * 100_000 + b"?=\r\n" + b"Received: x\r\n" * 50_000)
add("rtf.rtf", b"{\\rtf1" + b"{" * 100_000)
add("shell.sh", b"#!/bin/sh\nrm -rf / --no-preserve-root\n")


@hostile("regular-expression-trap.txt")
def _trap(_: Random) -> bytes:
    return b"a" * 100_000 + b"!" + b"<" * 50_000 + b"(" * 50_000
