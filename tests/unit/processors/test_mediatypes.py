"""Names of media types."""

import pytest

from processors.mediatypes import agrees, canonical, type_of_name


@pytest.mark.parametrize(
    ("name", "found"),
    [("Image/JPG", "image/jpeg"), (" text/xml; charset=utf-8", "application/xml"), ("x/y", "x/y"), ("", "")],
)
def test_each_type_has_one_name(name, found):
    assert canonical(name) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.PNG", "image/png"),
        ("a.tar.gz", "application/gzip"),
        ("a.b.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("a.xml", "application/xml"),
        ("a.webp", "image/webp"),
        ("a.wav", "audio/wav"),
        ("noextension", None),
        ("a.unheardof", None),
        ("", None),
        ("../../a\0.png", "image/png"),
    ],
)
def test_an_extension_suggests_a_type(name, found):
    assert type_of_name(name) == found


@pytest.mark.parametrize(
    ("claim", "found", "answer"),
    [
        (None, "image/png", None),
        ("", "image/png", None),
        ("application/octet-stream", "image/png", None),
        ("image/png", "image/png", True),
        ("image/jpg", "image/jpeg", True),
        ("image/png", "image/jpeg", False),
        ("image/png", "application/octet-stream", False),
        ("text/plain", "application/json", True),
        ("application/json", "text/plain", False),
        ("application/ld+json", "application/json", True),
        ("application/atom+xml", "application/xml", True),
        ("application/ld+json", "application/xml", False),
        ("application/xml", "image/svg+xml", True),
        ("text/markdown", "text/plain", True),
        ("application/yaml", "text/plain", True),
        ("text/csv", "text/plain", True),
        ("text/html", "text/plain", False),
        ("application/pdf", "text/plain", False),
    ],
)
def test_a_claim_agrees_if_it_is_true_of_the_content(claim, found, answer):
    assert agrees(claim, found) is answer
