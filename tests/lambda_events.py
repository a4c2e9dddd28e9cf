"""Events of AWS Lambda, with the field names of AWS's documentation: of each gateway, and of services that speak no HTTP.

Sources, all below https://docs.aws.amazon.com/:

- REST API: apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html, "Input format"
- HTTP API, formats 1.0 and 2.0: apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
- Function URL: lambda/latest/dg/urls-invocation.html, "Request payload format"
- Load balancer: elasticloadbalancing/latest/application/lambda-functions.html, "Receive events from the load balancer"
- Services: lambda/latest/dg/lambda-services.html, and the page of each
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

Event = dict[str, Any]
Fields = Sequence[tuple[str, str]]
MakeEvent = Callable[..., Event]

ACCOUNT = "123456789012"
SOURCE_IP = "203.0.113.7"
TRACE = "Root=1-5e66d96f-7491f09xmpl79d18acf3d050"
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64)"


def body_of(body: bytes | None) -> tuple[str | None, bool]:
    """The body in an event, and ``isBase64Encoded``: base64 for what is not UTF-8."""
    if body is None:
        return None, False
    try:
        return body.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True


def usual_headers(host: str, source_ip: str) -> list[tuple[str, str]]:
    """The header fields of every request, as a gateway hands them on."""
    return [
        ("host", host),
        ("user-agent", USER_AGENT),
        ("accept", "*/*"),
        ("x-amzn-trace-id", TRACE),
        ("x-forwarded-for", source_ip),
        ("x-forwarded-port", "443"),
        ("x-forwarded-proto", "https"),
    ]


def merged(usual: Fields, headers: Fields) -> list[tuple[str, str]]:
    """`usual`, except the fields that `headers` have as well, and then `headers`."""
    own = {name.lower() for name, _ in headers}
    return [*(field for field in usual if field[0] not in own), *headers]


def in_title_case(headers: Fields) -> list[tuple[str, str]]:
    """The names as most clients of HTTP/1.1 write them: a REST API hands them on unchanged."""
    return [(name.title() if name.islower() else name, value) for name, value in headers]


def with_cookie(headers: Fields, cookies: Sequence[str]) -> list[tuple[str, str]]:
    return [*headers, ("cookie", "; ".join(cookies))] if cookies else list(headers)


def last_values(pairs: Fields) -> dict[str, str]:
    """A gateway keeps the last value of a name where it has place for one."""
    return dict(pairs)


def all_values(pairs: Fields) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return values


def joined_values(pairs: Fields) -> dict[str, str]:
    return {name: ",".join(values) for name, values in all_values(pairs).items()}


def split_query(query: str) -> list[tuple[str, str]]:
    """The parameters of a query as the client sent them: not decoded."""
    parts = [part.partition("=") for part in query.split("&") if part]
    return [(name, value) for name, _, value in parts]


def rest_v1(
    *,
    method: str = "GET",
    path: str = "/my/path",
    query: str = "",
    headers: Fields = (),
    cookies: Sequence[str] = (),
    body: bytes | None = None,
    stage: str = "prod",
    source_ip: str = SOURCE_IP,
    protocol: str = "HTTP/1.1",
) -> Event:
    """An event of a REST API, called by its own domain: the path of the request has the stage, `path` has not."""
    domain = "id.execute-api.us-east-1.amazonaws.com"
    fields = in_title_case(with_cookie(merged(usual_headers(domain, source_ip), headers), cookies))
    parameters = parse_qsl(query, keep_blank_values=True)
    text, is_base64 = body_of(body)
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": last_values(fields),
        "multiValueHeaders": all_values(fields),
        "queryStringParameters": last_values(parameters) or None,
        "multiValueQueryStringParameters": all_values(parameters) or None,
        "pathParameters": {"proxy": path.lstrip("/")},
        "stageVariables": None,
        "requestContext": {
            "resourceId": "2gxmpl",
            "resourcePath": "/{proxy+}",
            "httpMethod": method,
            "extendedRequestId": "JJbxmplHYosFVYQ=",
            "requestTime": "10/Mar/2020:00:03:59 +0000",
            "path": f"/{stage}{path}",
            "accountId": ACCOUNT,
            "protocol": protocol,
            "stage": stage,
            "domainPrefix": "id",
            "requestTimeEpoch": 1583798639428,
            "requestId": "77375676-xmpl-4b79-853a-f982474efe18",
            "identity": {
                "cognitoIdentityPoolId": None,
                "accountId": None,
                "cognitoIdentityId": None,
                "caller": None,
                "sourceIp": source_ip,
                "principalOrgId": None,
                "accessKey": None,
                "cognitoAuthenticationType": None,
                "cognitoAuthenticationProvider": None,
                "userArn": None,
                "userAgent": USER_AGENT,
                "user": None,
            },
            "domainName": domain,
            "apiId": "id",
        },
        "body": text,
        "isBase64Encoded": is_base64,
    }


def rest_v1_single(**options: Any) -> Event:
    """The same without fields for several values, as `sam local` and older tools make it."""
    event = rest_v1(**options)
    del event["multiValueHeaders"], event["multiValueQueryStringParameters"]
    return event


def rest_v1_console(
    *, method: str = "GET", path: str = "/", stage: str = "test-invoke-stage"
) -> Event:
    """The event of the console's test of a REST API without any input: null for all that is empty."""
    event = rest_v1(method=method, path=path, stage=stage, source_ip="test-invoke-source-ip")
    for key in ("headers", "multiValueHeaders", "pathParameters"):
        event[key] = None
    event["requestContext"]["path"] = path
    event["requestContext"]["domainName"] = "testPrefix.testDomainName"
    return event


def http_v1(
    *,
    method: str = "GET",
    path: str = "/my/path",
    query: str = "",
    headers: Fields = (),
    cookies: Sequence[str] = (),
    body: bytes | None = None,
    stage: str = "$default",
    source_ip: str = SOURCE_IP,
    protocol: str = "HTTP/1.1",
) -> Event:
    """An event of an HTTP API with payload format 1.0: the path has the stage, unless it is ``$default``."""
    domain = "id.execute-api.us-east-1.amazonaws.com"
    fields = with_cookie(merged(usual_headers(domain, source_ip), headers), cookies)
    parameters = parse_qsl(query, keep_blank_values=True)
    text, is_base64 = body_of(body)
    if stage != "$default":
        path = f"/{stage}{path}"
    return {
        "version": "1.0",
        "resource": "/my/path",
        "path": path,
        "httpMethod": method,
        "headers": last_values(fields),
        "multiValueHeaders": all_values(fields),
        "queryStringParameters": last_values(parameters) or None,
        "multiValueQueryStringParameters": all_values(parameters) or None,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": "id",
            "authorizer": {"claims": None, "scopes": None},
            "domainName": domain,
            "domainPrefix": "id",
            "extendedRequestId": "request-id",
            "httpMethod": method,
            "identity": {
                "accessKey": None,
                "accountId": None,
                "caller": None,
                "cognitoAuthenticationProvider": None,
                "cognitoAuthenticationType": None,
                "cognitoIdentityId": None,
                "cognitoIdentityPoolId": None,
                "principalOrgId": None,
                "sourceIp": source_ip,
                "user": None,
                "userAgent": USER_AGENT,
                "userArn": None,
            },
            "path": path,
            "protocol": protocol,
            "requestId": "id=",
            "requestTime": "04/Mar/2020:19:15:17 +0000",
            "requestTimeEpoch": 1583349317135,
            "resourceId": None,
            "resourcePath": "/my/path",
            "stage": stage,
        },
        "pathParameters": None,
        "stageVariables": None,
        "body": text,
        "isBase64Encoded": is_base64,
    }


def http_v2(
    *,
    method: str = "GET",
    path: str = "/my/path",
    query: str = "",
    headers: Fields = (),
    cookies: Sequence[str] = (),
    body: bytes | None = None,
    stage: str = "$default",
    source_ip: str = SOURCE_IP,
    protocol: str = "HTTP/1.1",
    domain: str = "id.execute-api.us-east-1.amazonaws.com",
) -> Event:
    """An event of an HTTP API with payload format 2.0: the path has the stage, unless it is ``$default``.

    Without cookies, a query or a body, their keys are missing.
    """
    fields = [
        (name.lower(), value) for name, value in merged(usual_headers(domain, source_ip), headers)
    ]
    text, is_base64 = body_of(body)
    if stage != "$default":
        path = f"/{stage}{path}"
    event: Event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
    }
    if cookies:
        event["cookies"] = list(cookies)
    event["headers"] = joined_values(fields)
    if query:
        event["queryStringParameters"] = joined_values(parse_qsl(query, keep_blank_values=True))
    event["requestContext"] = {
        "accountId": ACCOUNT,
        "apiId": "id",
        "domainName": domain,
        "domainPrefix": "id",
        "http": {
            "method": method,
            "path": path,
            "protocol": protocol,
            "sourceIp": source_ip,
            "userAgent": USER_AGENT,
        },
        "requestId": "JKJaXmPLvHcESHA=",
        "routeKey": "$default",
        "stage": stage,
        "time": "10/Mar/2020:05:16:23 +0000",
        "timeEpoch": 1583817383220,
    }
    if text is not None:
        event["body"] = text
    event["isBase64Encoded"] = is_base64
    return event


def function_url(**options: Any) -> Event:
    """An event of a Function URL: the form of `http_v2`, always in the stage ``$default``."""
    return http_v2(domain="id.lambda-url.us-west-2.on.aws", **options)


def alb(
    *,
    method: str = "GET",
    path: str = "/my/path",
    query: str = "",
    headers: Fields = (),
    cookies: Sequence[str] = (),
    body: bytes | None = None,
    source_ip: str = SOURCE_IP,
    multi_value: bool = False,
) -> Event:
    """An event of a load balancer: the last value of each name, the query not decoded."""
    text, is_base64 = body_of(body)
    arn = f"arn:aws:elasticloadbalancing:us-east-2:{ACCOUNT}:targetgroup/lambda-279XGJDqGZ5rsrHC2Fjr/49e9d65c45c6791a"
    usual = usual_headers("lambda-alb-123578498.us-east-2.elb.amazonaws.com", source_ip)
    fields = with_cookie(merged(usual, headers), cookies)
    lines = [(name.lower(), value) for name, value in fields]
    event: Event = {
        "requestContext": {"elb": {"targetGroupArn": arn}},
        "httpMethod": method,
        "path": path,
        "body": text or "",
        "isBase64Encoded": is_base64,
    }
    if multi_value:
        event["multiValueQueryStringParameters"] = all_values(split_query(query))
        event["multiValueHeaders"] = all_values(lines)
    else:
        event["queryStringParameters"] = last_values(split_query(query))
        event["headers"] = last_values(lines)
    return event


def alb_multi_value(**options: Any) -> Event:
    """An event of a load balancer whose target group has ``lambda.multi_value_headers.enabled``."""
    return alb(**options, multi_value=True)


HTTP_EVENTS: Mapping[str, MakeEvent] = {
    "rest_v1": rest_v1,
    "rest_v1_single": rest_v1_single,
    "http_v1": http_v1,
    "http_v2": http_v2,
    "function_url": function_url,
    "alb": alb,
    "alb_multi_value": alb_multi_value,
}
"""The functions above that take method, path, query, headers, cookies, body and source_ip."""


def edge(*, method: str = "GET", path: str = "/my/path") -> Event:
    """An event of Lambda@Edge: a request that CloudFront has received."""
    request = {
        "clientIp": SOURCE_IP,
        "headers": {"host": [{"key": "Host", "value": "d111111abcdef8.cloudfront.net"}]},
        "method": method,
        "querystring": "",
        "uri": path,
    }
    config = {
        "distributionDomainName": "d111111abcdef8.cloudfront.net",
        "distributionId": "EDFDVBD6EXAMPLE",
        "eventType": "viewer-request",
        "requestId": "4TyzHTaYWb1GX1qTfsHhEqV6HUDd_BzoBZnwfnvQc_1oF26ClkoUSEQ==",
    }
    return {"Records": [{"cf": {"config": config, "request": request}}]}


def websocket(*, event_type: str = "MESSAGE", body: str | None = "hello") -> Event:
    """An event of a WebSocket API: CONNECT, MESSAGE or DISCONNECT."""
    routes = {"CONNECT": "$connect", "MESSAGE": "$default", "DISCONNECT": "$disconnect"}
    event: Event = {
        "requestContext": {
            "routeKey": routes[event_type],
            "messageId": "fgB6sfpLoAMCJ7A=",
            "eventType": event_type,
            "extendedRequestId": "fgB6sFQ4oAMFnoA=",
            "requestTime": "19/Mar/2023:20:01:20 +0000",
            "messageDirection": "IN",
            "stage": "prod",
            "connectedAt": 1679256072012,
            "requestTimeEpoch": 1679256080331,
            "identity": {"sourceIp": SOURCE_IP},
            "requestId": "fgB6sFQ4oAMFnoA=",
            "domainName": "abcd1234.execute-api.us-east-1.amazonaws.com",
            "connectionId": "fgB5IdJroAMCJ7A=",
            "apiId": "abcd1234",
        },
        "isBase64Encoded": False,
    }
    if body is not None:
        event["body"] = body
    if event_type == "CONNECT":
        host = {"Host": "abcd1234.execute-api.us-east-1.amazonaws.com"}
        event |= {"headers": host, "multiValueHeaders": {k: [v] for k, v in host.items()}}
    return event


def sqs(*, body: str = "Test message.") -> Event:
    attributes = {
        "ApproximateReceiveCount": "1",
        "SentTimestamp": "1545082649183",
        "SenderId": "AIDAIENQZJOLO23YVJ4VO",
        "ApproximateFirstReceiveTimestamp": "1545082649185",
    }
    record = {
        "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
        "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a...",
        "body": body,
        "attributes": attributes,
        "messageAttributes": {},
        "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-2:{ACCOUNT}:my-queue",
        "awsRegion": "us-east-2",
    }
    return {"Records": [record]}


def s3(*, key: str = "b21b84d653bb07b05b1e6b33684dc11b") -> Event:
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "us-east-2",
        "eventTime": "2019-09-03T19:37:27.192Z",
        "eventName": "ObjectCreated:Put",
        "userIdentity": {"principalId": "AWS:AIDAINPONIXQXHT3IKHL2"},
        "requestParameters": {"sourceIPAddress": SOURCE_IP},
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": {"name": "my-bucket", "arn": "arn:aws:s3:::my-bucket"},
            "object": {"key": key, "size": 1305107},
        },
    }
    return {"Records": [record]}


def sns(*, message: str = "Hello from SNS!") -> Event:
    notification = {
        "Type": "Notification",
        "MessageId": "95df01b4-ee98-5cb9-9903-4c221d41eb5e",
        "TopicArn": f"arn:aws:sns:us-east-1:{ACCOUNT}:sns-lambda",
        "Subject": "TestInvoke",
        "Message": message,
        "Timestamp": "2019-01-02T12:45:07.000Z",
        "MessageAttributes": {},
    }
    record = {
        "EventVersion": "1.0",
        "EventSubscriptionArn": f"arn:aws:sns:us-east-1:{ACCOUNT}:sns-lambda:21be56ed-a058-49f5",
        "EventSource": "aws:sns",
        "Sns": notification,
    }
    return {"Records": [record]}


def schedule(*, name: str = "my-schedule") -> Event:
    """An event of EventBridge: a rule with a schedule."""
    return {
        "version": "0",
        "account": ACCOUNT,
        "region": "us-east-2",
        "detail": {},
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "time": "2019-03-01T01:23:45Z",
        "id": "cdc73f9d-aea9-11e3-9d5a-835b769c0d9c",
        "resources": [f"arn:aws:events:us-east-2:{ACCOUNT}:rule/{name}"],
    }


def dynamodb() -> Event:
    record = {
        "eventID": "c4ca4238a0b923820dcc509a6f75849b",
        "eventName": "INSERT",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": {
            "Keys": {"Id": {"N": "101"}},
            "NewImage": {"Message": {"S": "New item!"}, "Id": {"N": "101"}},
            "SequenceNumber": "4421584500000000017450439091",
            "SizeBytes": 26,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
        "eventSourceARN": f"arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/ExampleTableWithStream/stream/2015",
    }
    return {"Records": [record]}


def kinesis(*, data: bytes = b"Hello, this is a test.") -> Event:
    record = {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": "1",
            "sequenceNumber": "49590338271490256608559692538361571095921575989136588898",
            "data": base64.b64encode(data).decode(),
            "approximateArrivalTimestamp": 1545084650.987,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": "shardId-000000000006:49590338271490256608559692538361571095921575989136588898",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": f"arn:aws:iam::{ACCOUNT}:role/lambda-role",
        "awsRegion": "us-east-2",
        "eventSourceARN": f"arn:aws:kinesis:us-east-2:{ACCOUNT}:stream/lambda-stream",
    }
    return {"Records": [record]}


def cloudwatch_logs() -> Event:
    """The data is gzip and base64; nothing here reads it."""
    return {
        "awslogs": {
            "data": "H4sIAAAAAAAAAHWPwQqCQBCGX0Xm7EFtK+smZBEUgXoLCdMhFtKV3akI8d0bLYmibvPPN3wz"
        }
    }


OTHER_EVENTS: Mapping[str, MakeEvent] = {
    "edge": edge,
    "websocket": websocket,
    "sqs": sqs,
    "s3": s3,
    "sns": sns,
    "schedule": schedule,
    "dynamodb": dynamodb,
    "kinesis": kinesis,
    "cloudwatch_logs": cloudwatch_logs,
}
"""The functions above whose events are no HTTP requests."""
