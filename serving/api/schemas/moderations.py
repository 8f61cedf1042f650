"""What POST /v1/moderations takes and how it answers; OpenAI's shapes, with the categories that are looked for here."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from pipelines.moderation.scores import MINORS

MAX_INPUTS = 100
MAX_CHARS = 200_000  # of one text; a screen reads a million in half a second

Text = Annotated[str, Field(max_length=MAX_CHARS)]
InputType = Literal["text", "image"]


class ImageUrl(BaseModel):
    model_config = ConfigDict(strict=True)

    url: str = Field(description="A data URI with base64, an https URL, or the id of an upload.")


class ImagePart(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: Text


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


def _kind_of_input(value: object) -> str:
    """So that what is wrong is told of the kind that was meant, and not of all three."""
    if isinstance(value, list):
        return "texts" if value and isinstance(value[0], str) else "parts"
    return "text"


class ModerationBody(BaseModel):
    """Unknown fields are ignored, as clients send extras."""

    model_config = ConfigDict(strict=True, extra="ignore")

    input: Annotated[
        Annotated[Text, Tag("text")]
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS), Tag("texts")]
        | Annotated[list[Part], Field(min_length=1, max_length=MAX_INPUTS), Tag("parts")],
        Discriminator(_kind_of_input),
        Field(description="A text, several, which are judged one by one, or parts that are judged together."),
    ]
    model: str | None = Field(None, max_length=200, description="OpenAI's names are taken; the answer names ours.")

    @property
    def texts(self) -> list[str]:
        """Those that are judged one by one."""
        if isinstance(self.input, str):
            return [self.input]
        return [item for item in self.input if isinstance(item, str)]

    @property
    def parts(self) -> list[Part]:
        """Those that are judged together."""
        return [] if isinstance(self.input, str) else [item for item in self.input if not isinstance(item, str)]


class Categories(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    sexual: bool
    sexual_minors: bool = Field(alias=MINORS)


class CategoryScores(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    sexual: float
    sexual_minors: float = Field(alias=MINORS)


class AppliedInputTypes(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    sexual: list[InputType]
    sexual_minors: list[InputType] = Field(alias=MINORS, description="Texts only: pictures are not judged by it.")


class ModerationResult(BaseModel):
    flagged: bool
    categories: Categories
    category_scores: CategoryScores
    category_applied_input_types: AppliedInputTypes


class ModerationResponse(BaseModel):
    id: str
    model: str
    results: list[ModerationResult]
