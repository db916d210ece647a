"""Text that is tidy already takes a shorter way: it has to come out as by the longer one."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from transforms.markdown import markdown_blocks
from transforms.text import paragraph, plain_blocks, without_controls

TEXTS = st.text("ab \n\t.\xa0\u2028\u3000e\u0301\u200b", max_size=40) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=40
)
MARKDOWN = st.text("a  \n_*", max_size=20) | st.text("a  \n\t#->|!]()&;1+=~{}:/@é\xa0", max_size=40)


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_tidy_paragraphs(text: str) -> None:
    """Two spaces at the end send all of a text the longer way; what is before them is the same."""
    text = f"a{text}b"
    assert paragraph(f"{text}  c") == f"{paragraph(text)} c"
    text = without_controls(text)
    blocks, untidy = list(plain_blocks(text)), list(plain_blocks(f"{text}  c"))
    assert untidy[:-1] == blocks[:-1]
    assert untidy[-1].text == f"{blocks[-1].text} c"


@given(text=MARKDOWN)
@settings(max_examples=300, deadline=None)
def test_markdown_without_markup(text: str) -> None:
    """A character reference sends its paragraph to the inline parser; the rest reads the same."""
    text = without_controls(text)
    parsed = markdown_blocks(f"a{text}b &#63;")
    assume(parsed[-1].kind != "code")
    assert markdown_blocks(f"a{text}b ?") == parsed


@given(first=TEXTS, text=TEXTS)
@settings(max_examples=200, deadline=None)
def test_control_characters(first: str, text: str) -> None:
    """They leave and breaks become line ends, wherever they stand."""
    whole = without_controls(f"{first}\x00{text}\r\n")
    assert whole == f"{without_controls(first)}{without_controls(text)}\n"
    assert not any(ord(char) < 32 and char not in "\t\n" for char in whole)
