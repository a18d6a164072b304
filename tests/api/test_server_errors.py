"""Real error bodies of many servers, and their classification."""

import json
from typing import Any

import pytest

from parrot_jax.api.replies import Outcome, read_response

CONTENT = [
    # OpenAI
    (400, {"error": {"code": "content_policy_violation", "message": "Your request was rejected as "
           "a result of our safety system.", "type": "invalid_request_error"}}),
    # Azure
    (400, {"error": {"message": "The response was filtered due to the prompt triggering Azure "
           "OpenAI's content management policy. Please modify your prompt and retry.",
           "type": None, "param": "prompt", "code": "content_filter", "status": 400,
           "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    (400, {"error": {"message": "Filtered.", "code": "400",
           "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    # OpenRouter
    (403, {"error": {"code": 403, "message": "openai/gpt-4 requires moderation on OpenAI. Your "
           "input was flagged for \"violence/graphic\". No credits were charged.",
           "metadata": {"reasons": ["violence/graphic"], "flagged_input": "how to",
           "provider_name": "OpenAI", "model_slug": "openai/gpt-4"}}}),
    (403, {"error": {"code": 403, "message": "Your input was flagged. No credits were charged."}}),
    # DeepSeek, Moonshot, DashScope, Zhipu
    (400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error"}}),
    (400, {"error": {"type": "content_filter",
           "message": "The request was rejected because it was considered high risk"}}),
    (400, {"error": {"code": "data_inspection_failed", "type": "data_inspection_failed",
           "message": "Input data may contain inappropriate content."}}),
    (400, {"code": "DataInspectionFailed", "message": "Output data may contain bad content."}),
    (400, {"error": {"code": "1301", "message": "输入或生成内容可能包含不安全或敏感内容"}}),
    # Other gateways
    (422, {"detail": "The prompt was flagged by our moderation endpoint"}),
    (451, {"error": "blocked due to content policy"}),
    (403, {"error": {"type": "moderation_error", "message": "no"}}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), CONTENT)
def test_a_moderator_speaks_of_one_request(status: int, body: Any) -> None:
    response = read_response(status, json.dumps(body))
    assert response.reply == (Outcome.FILTERED, "", None)
    assert not response.may_pass
    assert not response.may_be_billed


ENDPOINT = [
    # Quota and credit: OpenAI, Moonshot, DeepSeek, one-api, DashScope, Anthropic, Zhipu, OpenRouter
    (429, {"error": {"message": "You exceeded your current quota, please check your plan and "
           "billing details.", "type": "insufficient_quota", "code": "insufficient_quota"}}),
    (429, {"error": {"message": "You exceeded your current quota, please check your plan."}}),
    (400, {"error": {"message": "Billing hard limit has been reached", "type":
           "invalid_request_error", "code": "billing_hard_limit_reached"}}),
    (429, {"error": {"type": "exceeded_current_quota_error", "message": "Your account org-1<ak-1> "
           "is suspended due to insufficient balance, please recharge your account"}}),
    (429, {"error": {"message": "Your account is suspended due to insufficient balance"}}),
    (429, {"error": {"message": "billing_hard_limit_reached"}}),
    (429, {"error": {"message": "exceeded_current_quota_error: pay, and try again after that"}}),
    (402, {"error": {"message": "Insufficient Balance", "type": "unknown_error"}}),
    (402, {}),
    (403, {"error": {"message": "用户额度不足", "type": "new_api_error",
           "code": "insufficient_user_quota"}}),
    (400, {"error": {"code": "Arrearage", "message": "Access denied, please make sure your account "
           "is in good standing."}}),
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit "
           "balance is too low to access the API. Please go to Plans & Billing."}}),
    (429, {"error": {"code": "1113", "message": "您的账户已欠费"}}),
    (429, {"error": {"code": 429, "message": "余额不足或无可用资源包,请充值。"}}),
    # Key, model, account
    (400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.",
            "status": "INVALID_ARGUMENT"}}]),
    (400, {"error": {"message": "Model Not Exist", "type": "invalid_request_error"}}),
    (403, {"error": {"message": "Country, region, or territory not supported",
           "code": "unsupported_country_region_territory"}}),
    (403, {"error": {"message": "Your account was flagged for violating our content policy."}}),
    (401, {"error": {"message": "Your input was flagged"}}),
    (403, "<html>Forbidden</html>"),
    (404, {"detail": "Not Found"}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), ENDPOINT)
def test_what_speaks_of_the_endpoint_does_not_pass_by_waiting(status: int, body: Any) -> None:
    response = read_response(status, json.dumps(body))
    assert response.reply == (Outcome.FAILED, "", None)
    assert not response.may_pass
    assert not response.is_rate_limited


PASSING = [
    (429, {"error": {"message": "Rate limit reached for gpt-4 in organization org-1 on tokens per "
           "min. Limit: 10000. Please try again in 6ms. You can increase your rate limit by adding "
           "a payment method to your account at https://platform.openai.com/account/billing.",
           "type": "tokens", "code": "rate_limit_exceeded"}}),
    # Gemini's rate limit reads like an exhausted quota, but says when to retry.
    (429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "You exceeded your "
            "current quota, please check your plan and billing details. Please retry in 34s."}}]),
    (429, {"error": {"type": "rate_limit_reached_error", "message": "max RPM: 3, please try again "
           "after 1 seconds, or recharge your account for more"}}),
    (429, {}),
    (503, {"error": {"message": "Your input was flagged", "code": "content_filter"}}),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
    (408, {}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), PASSING)
def test_what_passes_by_waiting(status: int, body: Any) -> None:
    response = read_response(status, json.dumps(body))
    assert response.reply == (Outcome.FAILED, "", None)
    assert response.may_pass


REQUEST = [
    (400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
          "'max_completion_tokens' instead."),
    (422, "The request violates the schema: unknown field seed"),
    (400, "Field names in a request are case-sensitive: did you mean seed?"),
    (413, "Request too large for model `llama` on tokens per minute (TPM): Limit 6000"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "message"), REQUEST)
def test_what_speaks_of_the_form_of_a_request_keeps_the_server_s_sentence(
    status: int, message: str
) -> None:
    response = read_response(status, json.dumps({"error": {"message": message, "code": None}}))
    assert response.reply == (Outcome.REJECTED, "", None)
    assert response.error == f"HTTP {status}: {message}"


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "seed is not known"}},
        {"message": "seed is not known"},
        {"detail": "seed is not known"},
        {"detail": [{"loc": ["body", "seed"], "msg": "seed is not known"}]},
        {"errors": [{"message": "seed is not known"}]},
        {"error": "seed is not known"},
        [{"error": {"message": "seed is not known"}}],
    ],
)
def test_the_sentence_is_found_wherever_it_stands(body: Any) -> None:
    assert read_response(422, json.dumps(body)).error == "HTTP 422: seed is not known"
