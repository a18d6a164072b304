"""The unmodified `openai` client."""

import openai


def stock_client(url: str) -> openai.OpenAI:
    """A client without retries. Plain HTTP needs no certificates, which take 50 ms to read."""
    http_client = openai.DefaultHttpxClient(verify=False)
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, http_client=http_client)
