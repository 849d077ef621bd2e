"""Asks a server through LiteLLM and prints what came: `litellm_client.py URL QUESTION`."""

import json
import os
import sys
import warnings

# Or it asks another host for prices.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
warnings.simplefilter("ignore")

import litellm  # noqa: E402

url, question = sys.argv[1:]
asked = {"messages": [{"role": "user", "content": question}], "api_key": "none", "num_retries": 0}
asked |= {"temperature": 0, "max_tokens": 24}
openai = asked | {"model": "openai/smollm2", "api_base": f"{url}/v1"}


def text(answer):
    return answer.choices[0].message.content


whole = litellm.completion(**openai)
chunks = litellm.completion(**openai, stream=True)
got = {
    "whole": text(whole),
    "completion_tokens": whole.usage.completion_tokens,
    "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
}
try:
    litellm.completion(**openai | {"model": "openai/nope"})
except Exception as error:
    got["error"] = [type(error).__name__, str(error)]
for provider in ("ollama_chat", "anthropic"):
    got[provider] = text(litellm.completion(model=f"{provider}/smollm2", api_base=url, **asked))
print(json.dumps(got))
