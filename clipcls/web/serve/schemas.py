"""Requests and answers of `clipcls serve`: limits, pydantic models, and their OpenAPI document.

Requests are validated by their models. Answers are only described by theirs: the records are those
that `clipcls classify` writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from clipcls import __version__
from clipcls.predictions import Candidate
from clipcls.web import local_server

_MOST_TOP = 100
_LONGEST_TEXT = 200  # characters of a label, synonym, prompt or template
_LONGEST_CAPTION = 1_000

Text = Annotated[str, Field(max_length=_LONGEST_TEXT)]
Texts = Annotated[list[Text], Field(fail_fast=True)]  # else each wrong item costs an error's memory
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Images = Annotated[
    list[str],
    Field(
        fail_fast=True,
        description="Each as base64, as a data URL with base64 or, from hosts that the server "
        "allows, as an http or https URL.",
    ),
]
Path = Annotated[
    str,
    Field(description="The image's file name as it came, its URL, or `images[0]` by its position."),
]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request, and of all requests together."""

    bytes: int = 64 << 20  # of a request's body
    pixels: int = 50_000_000  # of a decoded image; JPEGs decode no larger than the model needs
    images: int = 32
    labels: int = 1_000  # also texts to embed
    texts: int = 10_000  # that labels and templates make together
    seconds: float = 30.0
    queue: int = 64  # images accepted and not answered yet, of all requests
    held: int = 256 << 20  # bytes of bodies, of all requests


class LabelEntry(BaseModel):
    """A label with texts of its own."""

    model_config = ConfigDict(extra="forbid")

    label: Text
    prompts: Text | Texts | None = None
    synonyms: Text | Texts | None = None
    use_templates: bool | None = None


class ImagesRequest(BaseModel):
    """The part that all requests with images share."""

    model_config = ConfigDict(extra="forbid")

    images: Images = Field(min_length=1)


class ClassifyRequest(ImagesRequest):
    """Images and how to classify them."""

    labels: list[Text | LabelEntry] | None = Field(
        None,
        min_length=1,
        fail_fast=True,
        description="Labels of one question in place of the server's; `animal > dog` is a level.",
    )
    prompts: Text | Texts | None = Field(
        None, description="The name of a ready template set, or templates with {} for the label."
    )
    top: int = Field(1, ge=1, le=_MOST_TOP, description="Labels per image.")
    min_score: Share = Field(0.0, description="Below it the answer is `unknown`.")
    min_margin: Share = Field(
        0.0, description="Below this difference from the second score the answer is `unknown`."
    )
    min_similarity: float | None = Field(
        None,
        ge=-100,
        le=100,
        allow_inf_nan=False,
        description="Below this many standard deviations above everyday names (`nearness`) the "
        "answer is `unknown`; start with 2.",
    )


class EmbedRequest(ImagesRequest):
    """Images and texts to embed, at least one."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["images"]}, {"required": ["texts"]}]}
    )

    images: Images = []
    texts: list[Annotated[str, Field(min_length=1, max_length=_LONGEST_CAPTION)]] = Field(
        [], fail_fast=True, description="Texts, which are embedded as they are: no templates."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Vectors as lists, or as base64 of little-endian float32."
    )


class PredictionRecord(BaseModel):
    """The answer for one image, as in the jsonl of `clipcls classify`."""

    model_config = ConfigDict(extra="allow")

    path: Path
    label: str
    score: float
    top: list[Candidate]
    model: str
    weights: str
    precision: str
    prompts: str


class QuestionAnswer(BaseModel):
    """The answer to one question: a label or, if it is tagged, all `labels` that fit."""

    model_config = ConfigDict(extra="allow")

    label: str | None = None
    score: float | None = None
    top: list[Candidate] | None = None
    labels: list[Candidate] | None = None
    best: Candidate | None = None


class QuestionsRecord(BaseModel):
    """The answers to the server's questions about one image, as `clipcls classify` writes them."""

    model_config = ConfigDict(extra="allow")

    path: Path
    questions: dict[str, QuestionAnswer]
    model: str
    weights: str
    precision: str


class ErrorRecord(BaseModel):
    """An image that could not be read."""

    path: str
    error: str


class Answer(BaseModel):
    """A record per image, in order."""

    results: list[PredictionRecord | QuestionsRecord | ErrorRecord]
    warnings: list[str] = Field(description="Doubts about the labels.")


class ImageVector(BaseModel):
    """An image's unit vector."""

    path: Path
    vector: list[float] | str


class TextVector(BaseModel):
    """A text's unit vector."""

    text: str
    vector: list[float] | str


class EmbedAnswer(BaseModel):
    """A record per image and per text, in order."""

    images: list[ImageVector | ErrorRecord]
    texts: list[TextVector]
    model: str
    weights: str
    precision: str
    dim: int = Field(description="The vectors' length.")
    warnings: list[str] = Field(description="Texts that are too long for the model.")


class LabelsAnswer(BaseModel):
    """The server's own labels, or those of each of its questions, its model and limits."""

    labels: list[str] | None = None
    questions: dict[str, list[str]] | None = None
    model: str
    weights: str
    precision: str
    prompts: str | None = Field(None, description="Where all questions have the same.")
    licence: str | None = Field(None, description="Of the model's weights, if it is known.")
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


_PLACE = "#/components/schemas/{model}"

_PROBLEMS = {
    400: "The body is not what it says it is.",
    401: "The bearer token is missing or wrong.",
    403: "A request from another web site, or an image's URL where none are allowed.",
    408: "The body took too long to arrive.",
    413: "More bytes, images or fields than a request may hold.",
    415: "Neither a multipart form nor JSON.",
    421: "The Host header names another server.",
    422: "A field, label or template cannot be used.",
    500: "An internal error.",
    503: "Too much is waiting; `Retry-After` says when to try again.",
    504: "The answer took too long.",
}


def make_openapi(limits: Limits, has_token: bool) -> dict[str, Any]:
    """The OpenAPI document of the server; `has_token`: requests need a bearer token."""
    models = (Answer, EmbedAnswer, LabelsAnswer, Health, Problem, LabelEntry)
    _, schemas = models_json_schema([(each, "validation") for each in models], ref_template=_PLACE)
    guarded = (401, 403, 421)
    paths = {
        "/classify": _post("Classify images", ClassifyRequest, Answer, limits),
        "/embed": _post("Embed images and texts", EmbedRequest, EmbedAnswer, limits),
        "/labels": _describe("get", "The server's labels and limits", LabelsAnswer, guarded),
        "/healthz": _describe("get", "Does the server answer?", Health, (403, 421)),
        "/metrics": _describe("get", "Metrics for Prometheus", None, guarded),
    }
    components: dict[str, Any] = {"schemas": schemas["$defs"]}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "clipcls",
            "description": "Zero-shot image classification with CLIP models.",
            "version": __version__,
        },
        "paths": paths,
        "components": components,
    }
    if has_token:
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"bearer": []}]
        paths["/healthz"]["get"]["security"] = []
    return document


def _describe(
    method: str,
    summary: str,
    answer: type[BaseModel] | None,
    problems: Iterable[int],
    **more: Any,
) -> dict[str, Any]:
    """A path's operation; `answer` None: it answers plain text."""
    content = {"text/plain": {"schema": {"type": "string"}}}
    if answer:
        content = {"application/json": {"schema": {"$ref": _PLACE.format(model=answer.__name__)}}}
    problem = {local_server.PROBLEM: {"schema": {"$ref": _PLACE.format(model="Problem")}}}
    responses = {"200": {"description": "The answer.", "content": content}} | {
        str(status): {"description": _PROBLEMS[status], "content": problem} for status in problems
    }
    return {method: {"summary": summary, "responses": responses, **more}}


def _post(
    summary: str, asked: type[ImagesRequest], answer: type[BaseModel], limits: Limits
) -> dict[str, Any]:
    """An operation that takes its request as a form or as JSON."""
    body = asked.model_json_schema(ref_template=_PLACE)
    body.pop("$defs", None)
    fields = body["properties"]
    fields["images"]["maxItems"] = limits.images
    if "texts" in fields:
        fields["texts"]["maxItems"] = limits.labels
    lines = {
        "type": "array",
        "items": {"type": "string", "maxLength": _LONGEST_TEXT},
        "description": "One or more lines; the field may be repeated.",
    }
    as_form = {
        "images": fields["images"] | {"items": {"type": "string", "format": "binary"}},
        "labels": lines | {"minItems": 1, "maxItems": limits.labels},
        "prompts": lines,
    }
    as_form = {name: as_form.get(name, field) for name, field in fields.items()}
    form = body | {"title": "Form", "properties": as_form}
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": body}}
    request = {"required": True, "content": content}
    return _describe("post", summary, answer, _PROBLEMS, requestBody=request)
