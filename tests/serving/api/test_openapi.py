"""The OpenAPI document: valid, complete, and true about keys and errors."""

import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.serving.house import House

ROUTES = {
    ("post", "/v1/images/generations"),
    ("post", "/v1/images/edits"),
    ("post", "/v1/generate/image"),
    ("post", "/v1/frames"),
    ("get", "/v1/jobs"),
    ("get", "/v1/jobs/{job_id}"),
    ("post", "/v1/jobs/{job_id}/cancel"),
    ("post", "/v1/jobs/{job_id}/retry"),
    ("get", "/v1/jobs/{job_id}/events"),
    ("get", "/v1/loras"),
    ("post", "/v1/uploads"),
    ("post", "/v1/uploads/direct"),
    ("get", "/v1/uploads"),
    ("get", "/v1/uploads/{upload_id}"),
    ("get", "/v1/uploads/{upload_id}/parts"),
    ("post", "/v1/uploads/{upload_id}/complete"),
    ("delete", "/v1/uploads/{upload_id}"),
    ("post", "/v1/loras/import"),
    ("post", "/v1/loras/train"),
    ("post", "/v1/loras/estimate"),
    ("get", "/v1/loras/{name}"),
    ("delete", "/v1/loras/{name}"),
    ("delete", "/v1/loras/{name}/versions/{version}"),
    ("get", "/v1/loras/{name}/versions/{version}/download"),
    ("post", "/api/lora/train"),
    ("get", "/api/lora/list"),
    ("get", "/api/lora/status/{job_id}"),
    ("get", "/api/lora/{job_id}"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{model_id}"),
    ("post", "/v1/moderations"),
    ("get", "/v1/webhooks"),
    ("post", "/v1/webhooks"),
    ("get", "/v1/webhooks/default/secret"),
    ("get", "/v1/webhooks/{webhook_id}"),
    ("patch", "/v1/webhooks/{webhook_id}"),
    ("delete", "/v1/webhooks/{webhook_id}"),
    ("post", "/v1/webhooks/{webhook_id}/rotate-secret"),
    ("get", "/v1/webhooks/{webhook_id}/deliveries"),
    ("post", "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"),
    ("get", "/v1/admin/keys"),
    ("post", "/v1/admin/keys"),
    ("delete", "/v1/admin/keys/{key_id}"),
    ("get", "/v1/admin/tenants"),
    ("post", "/v1/admin/tenants"),
    ("patch", "/v1/admin/tenants/{tenant_id}"),
    ("get", "/v1/admin/drain"),
    ("post", "/v1/admin/drain"),
    ("get", "/health"),
    ("get", "/health/live"),
    ("get", "/health/ready"),
    ("get", "/metrics"),
}

PROTECTED = ("/v1/", "/api/")


@pytest.fixture
async def document(shared: House) -> dict[str, Any]:
    answer = await shared.anonymous.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method, path): op for path, ops in document["paths"].items() for method, op in ops.items()}


async def test_it_is_openapi_3_and_names_every_route(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "Darkroom"
    assert set(operations(document)) == ROUTES


async def test_its_schemas_are_valid_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)

    def check(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                assert node["$ref"].removeprefix("#/components/schemas/") in schemas
            for value in node.values():
                check(value)
        elif isinstance(node, list):
            for value in node:
                check(value)

    check(document)


async def test_routes_below_v1_and_api_need_a_key_and_the_others_do_not(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for (_, path), operation in operations(document).items():
        assert operation.get("security", []) == ([{"HTTPBearer": []}] if path.startswith(PROTECTED) else [])


async def test_every_refusal_is_documented_in_openais_shape(document: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for (_, path), operation in operations(document).items():
        if path.startswith(PROTECTED):
            content = operation["responses"]["4XX"]["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorBody"}


async def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in operations(document).values()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", ["/docs"])
async def test_the_pages_are_served(shared: House, path: str) -> None:
    answer = await shared.anonymous.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")


async def test_the_page_needs_nothing_from_elsewhere(shared: House) -> None:
    page = (await shared.anonymous.get("/docs")).text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert addresses
    for address in addresses:
        assert address.startswith("/"), f"{address} is on another host"
        assert (await shared.anonymous.get(address)).status_code == 200
