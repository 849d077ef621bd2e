"""Libraries that people put between themselves and OpenAI's API, against a real model."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from serving import QUESTION

TEXT = QUESTION[0]["content"]


@pytest.fixture
def base_url(smollm2):
    return f"{smollm2.url}/v1"


class TestLangChain:
    @pytest.fixture
    def chat(self, base_url):
        module = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed: make clients")
        return module.ChatOpenAI(
            base_url=base_url, api_key="none", model="smollm2", temperature=0, max_tokens=24, max_retries=0
        )

    def test_it_invokes_and_streams(self, chat):
        whole = chat.invoke(TEXT)
        assert "Paris" in whole.content
        assert whole.response_metadata["finish_reason"] == "length"
        assert whole.usage_metadata["output_tokens"] == 24
        chunks = list(chat.stream(TEXT))
        assert "".join(chunk.content for chunk in chunks) == whole.content

    def test_a_batch_is_what_each_would_be(self, chat):
        questions = ["Say hello.", TEXT, "Count to three."]
        batch = [answer.content for answer in chat.batch(questions)]
        assert batch == [chat.invoke(question).content for question in questions]

    def test_it_speaks_responses(self, chat):
        answer = chat.model_copy(update={"use_responses_api": True}).invoke(TEXT)
        assert answer.text == chat.invoke(TEXT).content

    def test_it_embeds(self, base_url):
        module = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed: make clients")
        embeddings = module.OpenAIEmbeddings(
            base_url=base_url, api_key="none", model="smollm2", check_embedding_ctx_length=False
        )
        documents = embeddings.embed_documents(["a cat", "a kitten"])
        assert documents[0] == pytest.approx(embeddings.embed_query("a cat"), abs=1e-6)
        assert len(documents[1]) == 576


@pytest.fixture(scope="module")
def litellm(smollm2):
    """What LiteLLM got, in a process of its own: it leaves sockets and event loops behind."""
    if importlib.util.find_spec("litellm") is None:
        pytest.skip("litellm is not installed: make clients")
    command = [sys.executable, Path(__file__).with_name("litellm_client.py"), smollm2.url, TEXT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


class TestLiteLlm:
    def test_it_completes_and_streams(self, litellm):
        assert "Paris" in litellm["whole"]
        assert litellm["completion_tokens"] == 24
        assert litellm["streamed"] == litellm["whole"]

    def test_errors_are_its_own(self, litellm):
        name, message = litellm["error"]
        assert name == "NotFoundError"
        assert "not served" in message

    def test_it_speaks_ollama_and_anthropic(self, litellm):
        assert all("Paris" in litellm[provider] for provider in ("ollama_chat", "anthropic"))
