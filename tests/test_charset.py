"""How the bytes of a page become text: byte order mark, label, label in the page, guess."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.corpus.charset import codecs_of, decode_page


@given(text=st.text(max_size=200).filter(lambda text: not text.startswith("\ufeff")), is_html=st.booleans())
def test_utf8_with_its_label_is_read_exactly(text: str, is_html: bool) -> None:
    assert decode_page(text.encode(), "UTF-8", is_html) == text


@given(body=st.binary(max_size=200), label=st.sampled_from(["", "utf-8", "undefined", "big5", "utf-16", "euc-kr", "idna"]))
def test_no_bytes_and_no_label_fail(body: bytes, label: str) -> None:
    text = decode_page(body, label, is_html=True)
    assert text.encode().decode() == text, "no lone surrogates either"


@pytest.mark.parametrize(
    ("encoding", "mark"), [("utf-8", b"\xef\xbb\xbf"), ("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")]
)
def test_a_byte_order_mark_wins_over_the_label(encoding: str, mark: bytes) -> None:
    assert decode_page(mark + "Grüße".encode(encoding), "iso-8859-1", is_html=False) == "Grüße"


def test_the_label_of_the_header_wins_over_that_in_the_page() -> None:
    page = '<meta charset="windows-1251"><p>Grüße'
    assert decode_page(page.encode("latin-1"), "iso-8859-1", is_html=True) == page
    page = '<meta charset="windows-1251"><p>Привет'
    assert decode_page(page.encode("cp1251"), "", is_html=True) == page


def test_bad_bytes_after_a_label_are_replaced_and_change_nothing_else() -> None:
    assert decode_page("Grüße ".encode() + b"\xe9 it\xe2\x80\x99s", "utf-8", is_html=False) == "Grüße \ufffd it’s"


@pytest.mark.parametrize("label", ["", "undefined", "idna", "unicode_escape", "utf-7", "x-user-defined", "no such"])
def test_a_label_that_no_page_can_mean_is_none(label: str) -> None:
    assert codecs_of(label) == ()
