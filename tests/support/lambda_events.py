"""Events as AWS gives them to a Lambda function: API Gateway (both versions) and a load balancer.

Recorded from the documentation's examples, with a request of the tests in them.
"""

import base64
from typing import Any
from urllib.parse import parse_qsl

HOST = "abc123.execute-api.eu-west-1.amazonaws.com"


class Context:
    """What a function is told about its invocation."""

    aws_request_id = "a1b2c3"
    function_name = "site"
    memory_limit_in_mb = 128

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 30_000


def _body(body: bytes) -> dict[str, Any]:
    return {
        "body": base64.b64encode(body).decode() if body else None,
        "isBase64Encoded": bool(body),
    }


def _headers(body: bytes, more: dict[str, str]) -> dict[str, str]:
    length = {"content-length": str(len(body)), "content-type": "text/plain"} if body else {}
    return {
        "host": HOST,
        "x-forwarded-for": "192.0.2.1",
        "x-forwarded-port": "443",
        "x-forwarded-proto": "https",
        **length,
        **more,
    }


def api_gateway_v1(method: str, path: str, query: str = "", body: bytes = b"", **more: str) -> Any:
    """A REST API, payload format 1.0."""
    headers = _headers(body, more)
    pairs = parse_qsl(query)
    return {
        "version": "1.0",
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": dict(pairs) or None,
        "multiValueQueryStringParameters": {name: [value] for name, value in pairs} or None,
        "pathParameters": {"proxy": path.lstrip("/")},
        "stageVariables": None,
        "requestContext": {
            "resourcePath": "/{proxy+}",
            "httpMethod": method,
            "path": path,
            "protocol": "HTTP/1.1",
            "stage": "$default",
            "identity": {"sourceIp": "192.0.2.1", "userAgent": "test"},
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
        },
        **_body(body),
    }


def api_gateway_v2(method: str, path: str, query: str = "", body: bytes = b"", **more: str) -> Any:
    """An HTTP API or a function URL, payload format 2.0."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "cookies": ["a=1", "b=2"],
        "headers": _headers(body, more),
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc123",
            "domainName": HOST,
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "test",
            },
            "requestId": "id",
            "routeKey": "$default",
            "stage": "$default",
            "time": "28/Nov/2026:06:00:00 +0000",
            "timeEpoch": 1795845600000,
        },
        **_body(body),
    }


def load_balancer(method: str, path: str, query: str = "", body: bytes = b"", **more: str) -> Any:
    """An Application Load Balancer."""
    return {
        "requestContext": {
            "elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:eu-west-1:1:targetgroup/a"}
        },
        "httpMethod": method,
        "path": path,
        "queryStringParameters": dict(parse_qsl(query)),
        "headers": _headers(body, more),
        **_body(body),
    }


EVENTS = {"v1": api_gateway_v1, "v2": api_gateway_v2, "load balancer": load_balancer}


def body_of(answer: dict[str, Any]) -> bytes:
    """The body of a function's answer."""
    text: str = answer["body"]
    return base64.b64decode(text) if answer.get("isBase64Encoded") else text.encode()
