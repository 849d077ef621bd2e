"""Libraries that people put between themselves and OpenAI's API, against a real model."""

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


# Its imports warn about its own types.
@pytest.mark.filterwarnings("ignore")
class TestLiteLlm:
    @pytest.fixture
    def litellm(self, monkeypatch):
        # Or it asks another host for prices.
        monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        return pytest.importorskip("litellm", reason="litellm is not installed: make clients")

    def test_it_completes_and_streams(self, litellm, base_url):
        asked = {"model": "openai/smollm2", "api_base": base_url, "api_key": "none", "messages": QUESTION}
        asked |= {"temperature": 0, "max_tokens": 24, "num_retries": 0}
        whole = litellm.completion(**asked)
        assert "Paris" in whole.choices[0].message.content
        assert whole.usage.completion_tokens == 24
        chunks = list(litellm.completion(**asked, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content

    def test_errors_are_its_own(self, litellm, base_url):
        with pytest.raises(litellm.NotFoundError, match="not served"):
            litellm.completion(model="openai/nope", api_base=base_url, api_key="none", messages=QUESTION, num_retries=0)

    def test_it_speaks_ollama_and_anthropic(self, litellm, smollm2):
        asked = {"messages": QUESTION, "temperature": 0, "max_tokens": 24, "num_retries": 0, "api_key": "none"}
        for provider in ("ollama_chat", "anthropic"):
            answer = litellm.completion(model=f"{provider}/smollm2", api_base=smollm2.url, **asked)
            assert "Paris" in answer.choices[0].message.content
