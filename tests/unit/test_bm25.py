"""BM25 terms: any script is found by its words, and weights are what a store accepts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from models.bm25 import encode_document, encode_query


@pytest.mark.parametrize(
    ("sentence", "query"),
    [
        ("The cats were running happily", "cat run"),
        ("Die Häuser der Stadt wurden gebaut", "häuser"),
        ("les élèves étudient à l'école", "eleves"),
        ("我们在北京大学学习自然语言处理", "北京"),
        ("東京都で機械学習を勉強しています", "機械学習"),
        ("猫が好きです", "猫"),
        ("ﾃﾞｰﾀﾍﾞｰｽの検索", "データベース"),
        ("ฉันชอบกินข้าวผัดที่ร้านอาหาร", "ข้าวผัด"),
        ("មហាវិទ្យាល័យភាសាខ្មែរ", "ភាសា"),
        ("الكتاب على الطاولة في المكتبة", "المكتبة"),
        ("Документы лежат в базе данных", "документы"),
        ("데이터베이스에서 문서를 검색합니다", "문서를"),
        ("हिन्दी में दस्तावेज़ खोजें", "दस्तावेज़"),
        ("call collection.find_one() in 3.11", "find_one 3.11"),
        ("Python言語の文法", "python 文法"),
    ],
)
def test_finds_words_of_any_script(sentence: str, query: str) -> None:
    """A word is found in a sentence that has it, and not in another."""
    wanted = set(encode_query(query)[0])
    assert wanted
    assert wanted <= set(encode_document(sentence)[0])
    assert not wanted & set(encode_document("entirely different ශබ්ද")[0])


def test_stop_words_alone_are_words() -> None:
    """A query of stop words finds them; beside other words they do not count."""
    document = set(encode_document("to be or not to be, that is the question")[0])
    assert set(encode_query("to be or not to be")[0]) <= document
    assert encode_query("the question") == encode_query("question")


@pytest.mark.parametrize("text", ["", "  \n", "?!", "\x00", "\ud800"])
def test_any_text_has_terms(text: str) -> None:
    """Text without words has no or few terms, and no text is an error."""
    assert len(encode_document(text)[0]) <= 1
    assert len(encode_query(text)[0]) <= 1


def test_indices_are_sorted_and_distinct() -> None:
    """Stores accept the vectors: ascending distinct u32, positive weights, repeated words up."""
    indices, values = encode_document("zeta alpha beta alpha gamma " * 5 + "omega")
    assert list(indices) == sorted(set(indices))
    assert all(0 <= index < 2**32 for index in indices)
    assert all(value > 0 for value in values)
    once, often = (encode_document(f"omega {'alpha ' * n}")[1] for n in (1, 5))
    assert max(often) > max(once)


def test_same_in_another_process() -> None:
    """Terms do not depend on the process, as the index outlives it."""
    code = "from models.bm25 import encode_document as e; print(e('stable 机器学习 words'))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == str(encode_document("stable 机器学习 words"))
