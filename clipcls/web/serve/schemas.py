"""What `clipcls serve` is asked and answers: pydantic models, and the OpenAPI document of them.

Requests are validated by their models. Answers are only described by theirs: their records are
those that `clipcls classify` writes.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field, create_model

from clipcls.predictions import COLUMNS
from clipcls.web import local_server
from clipcls.web.serve.questions import Limits, Question

__all__ = [
    "PROBLEMS",
    "Answer",
    "ClassifyRequest",
    "Health",
    "LabelsAnswer",
    "Options",
    "openapi_document",
    "problem_responses",
    "request_body",
]

_MOST_TOP = 100


class LabelEntry(BaseModel):
    """A label with texts of its own."""

    model_config = ConfigDict(extra="forbid")

    label: str
    prompts: str | list[str] | None = None
    synonyms: str | list[str] | None = None
    use_templates: bool | None = None


class Options(BaseModel):
    """What is asked of the images."""

    model_config = ConfigDict(extra="forbid")

    labels: list[str | LabelEntry] | None = Field(
        None,
        min_length=1,
        description="Labels in place of the server's; `animal > dog` is a level.",
    )
    prompts: str | list[str] | None = Field(
        None, description="The name of a ready template set, or templates with {} for the label."
    )
    reject: bool | None = Field(None, description="One more answer, `none of these`.")
    top: int = Field(1, ge=1, le=_MOST_TOP, description="Labels per image.")
    min_score: float = Field(
        0.0, ge=0, le=1, allow_inf_nan=False, description="Below it the answer is `unknown`."
    )
    min_margin: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="So it is where the score is less than this above the second.",
    )

    def question(self) -> Question:
        """As the service takes it."""
        labels: list[Any] | None = self.labels and [
            item if isinstance(item, str) else item.model_dump(exclude_none=True)
            for item in self.labels
        ]
        prompts = tuple(self.prompts) if isinstance(self.prompts, list) else self.prompts
        return Question(labels, prompts, self.reject, self.top, self.min_score, self.min_margin)


class ClassifyRequest(Options):
    """Images and what is asked of them, as JSON."""

    images: list[str] = Field(
        min_length=1,
        description="Each as base64, as a data URL with base64 or, of hosts that the server "
        "allows, as an http or https URL.",
    )


_PATH = "The image's file name as it came, its URL, or `images[0]` by its position."
_REQUIRED = ("label", "score", "top", "model", "weights", "precision", "prompts")
_FIELDS: dict[str, Any] = {
    "path": (str, Field(description=_PATH)),
    **{name: (COLUMNS[name], ...) for name in _REQUIRED},
}

PredictionRecord: type[BaseModel] = create_model(
    "PredictionRecord",
    __config__=ConfigDict(extra="allow"),
    __doc__="The answer for one image, as in the jsonl of `clipcls classify`.",
    **_FIELDS,
)


class ErrorRecord(BaseModel):
    """An image that could not be read."""

    path: str
    error: str


class Answer(BaseModel):
    """A record for each image, in order."""

    results: list[PredictionRecord | ErrorRecord]  # type: ignore[valid-type]
    warnings: list[str] = Field(description="What is doubtful about the labels.")


class LabelsAnswer(BaseModel):
    """What the server answers with where a request brings no labels."""

    labels: list[str]
    model: str
    weights: str
    precision: str
    prompts: str
    urls: bool = Field(description="Whether images may be given by URL.")
    limits: dict[str, float]


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


# The statuses of all errors, and what each says.
PROBLEMS = {
    400: "The body is not what it says it is.",
    401: "The bearer token is missing or wrong.",
    403: "A request of another web site, or an image's URL where none are allowed.",
    408: "The body took too long to come.",
    413: "More bytes, images or fields than a request may hold.",
    415: "Neither a multipart form nor JSON.",
    421: "The Host header names another server.",
    422: "A field, label or template cannot be used.",
    500: "An internal error.",
    503: "Too much is waiting; `Retry-After` says when to try again.",
    504: "The answer took too long.",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI of a route's errors, for FastAPI's `responses`; each status is in `PROBLEMS`."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": PROBLEMS[status],
            "content": {local_server.PROBLEM: {"schema": schema}},
        }
        for status in statuses
    }


def request_body(limits: Limits) -> dict[str, Any]:
    """The OpenAPI of both bodies that `/classify` takes: a form and JSON."""
    form = Options.model_json_schema(ref_template="#/components/schemas/{model}")
    form.pop("$defs", None)
    fields = form["properties"]
    line = {"type": "string", "maxLength": limits.length}
    fields["labels"] = {
        "type": "array",
        "items": line,
        "minItems": 1,
        "maxItems": limits.labels,
        "description": "Labels in place of the server's, one a line; the field may be repeated.",
    }
    fields["prompts"] = {
        "type": "array",
        "items": line,
        "description": "The name of a ready template set, or templates with {}, a line each.",
    }
    fields["reject"] = {"type": "boolean"}
    fields["images"] = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "maxItems": limits.images,
    }
    form |= {"title": "Form", "required": ["images"]}
    body = ClassifyRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    body.pop("$defs", None)
    body["properties"]["images"]["maxItems"] = limits.images
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": body}}
    return {"required": True, "content": content}


def openapi_document(app: FastAPI, has_token: bool) -> dict[str, Any]:
    """The OpenAPI of all routes that `app` has by now; `has_token`: they ask for a bearer token.

    FastAPI's own lacks what only `problem_responses` and `request_body` refer to.
    """
    schema = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    components = schema.setdefault("components", {})
    for model in (Problem, LabelEntry):
        components.setdefault("schemas", {})[model.__name__] = model.model_json_schema()
    if has_token:
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                if path != "/healthz":
                    operation["security"] = [{"bearer": []}]
    return schema
