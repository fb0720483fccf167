"""What a client may ask for, checked: types, ranges, lengths, known names. Nothing from a request is used before this."""

from __future__ import annotations

import logging
from typing import Annotated, Any, TypeVar

from fastapi import HTTPException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from zerotumor.errors import ScanError
from zerotumor.in_turn import IN_TURN
from zerotumor.inferer import OVERLAP
from zerotumor.prompts import MAX_LENGTH
from zerotumor.segmenter import METHODS
from zerotumor.uncertainty import PASSES

logger = logging.getLogger(__name__)
EXTENSIONS = (".nrrd", ".nii.gz", ".nii")
DTYPES = ("uint8", "uint16", "int16", "int32", "float32")
QUALITIES = ("standard", "fast", "best")
MAX_PROMPTS, MAX_CLICKS = 20, 500


def first_of(value: Any) -> Any:
    """A drop-down that was not touched arrives as the list of all its choices."""
    return value[0] if isinstance(value, list) and value else value


Choice = Annotated[str, BeforeValidator(first_of)]
Index = tuple[int, int, int]

Kind = TypeVar("Kind", bound=BaseModel)


class Options(BaseModel):
    """Options that both tasks share; what a viewer sends besides is ignored."""

    model_config = ConfigDict(extra="ignore")

    method: Choice = next(iter(METHODS))  # the app fills in what it offers first
    version: Annotated[Choice, Field(max_length=100)] = "latest"  # of what was learned here; "starter": nothing
    modality: Choice = "auto"
    header_modality: str = ""  # what the archive says; set by the app, never by a client
    dicom_folder: str = ""  # where the archive's files of the series lie; set by the app, never by a client
    format: Choice = ""  # "dicom-seg" or "rtstruct" instead of result_extension
    push: bool = False  # store the DICOM result in the archive, too
    client_id: Annotated[str, Field(max_length=200)] = ""
    result_extension: str = ".nii.gz"
    result_dtype: str = "uint8"
    result_compress: bool = False

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        return _one_of(value, (*METHODS, IN_TURN), "method")

    @field_validator("modality")
    @classmethod
    def _known_modality(cls, value: str) -> str:
        return _one_of(value, ("auto", "CT", "MR"), "modality")

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        return _one_of(value, ("", "dicom-seg", "rtstruct"), "format")

    @field_validator("result_extension")
    @classmethod
    def _known_extension(cls, value: str) -> str:
        return _one_of(value, EXTENSIONS, "result_extension")

    @field_validator("result_dtype")
    @classmethod
    def _known_dtype(cls, value: str) -> str:
        return _one_of(value, DTYPES, "result_dtype")

    @field_validator("header_modality")
    @classmethod
    def _known_header(cls, value: str) -> str:
        return _one_of(value, ("", "CT", "MR"), "header_modality")

    @property
    def stated_modality(self) -> str | None:
        """CT or MR, from the client, else from the archive."""
        return self.header_modality or None if self.modality == "auto" else self.modality


class TumorOptions(Options):
    """Of the task `tumor`: text, or indices of the vocabulary (class prompts)."""

    prompt: Annotated[str, BeforeValidator(first_of), Field(max_length=MAX_PROMPTS * (MAX_LENGTH + 2))] = "tumor"
    label_prompt: Annotated[list[int], Field(max_length=MAX_PROMPTS)] | None = None
    quality: Choice = ""  # fast, standard or best, for methods that know these; others pay no attention
    overlap: Annotated[float, Field(ge=0, le=0.8)] = OVERLAP
    uncertainty: bool = False  # look several times and ask the other methods, too
    passes: Annotated[int, Field(ge=0, le=16)] = PASSES  # looks for that, besides the plain one
    map: Annotated[Choice, Field(max_length=40)] = ""  # "uncertainty", or one of the method's, in place of the labels

    @field_validator("quality")
    @classmethod
    def _known_quality(cls, value: str) -> str:
        return _one_of(value, ("", *QUALITIES), "quality")

    @property
    def doubts(self) -> bool:
        """Whether the full uncertainty is wanted."""
        return self.uncertainty or self.map == "uncertainty"


class RefineOptions(Options):
    """Of the task `tumor_refine`: clicks are voxel indices (i, j, k) of the client's volume."""

    foreground: Annotated[list[Index], Field(max_length=MAX_CLICKS)] = []
    background: Annotated[list[Index], Field(max_length=MAX_CLICKS)] = []
    roi: Annotated[list[int], Field(max_length=6)] | None = None  # x1, x2, y1, y2, z1, z2
    label: Annotated[str, Field(max_length=4096)] = ""  # Slicer: the segment's name; the path of an uploaded mask
    prompt: Annotated[str, BeforeValidator(first_of), Field(max_length=MAX_LENGTH)] = ""
    undo: bool = False
    reset: bool = False

    @field_validator("roi")
    @classmethod
    def _six_numbers(cls, value: list[int] | None) -> list[int] | None:
        if value and len(value) != 6:
            raise ValueError("roi must be six voxel indices: x1, x2, y1, y2, z1, z2")
        return value or None


def _one_of(value: str, choices: tuple[str, ...], name: str) -> str:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}")
    return value


def refuse(message: str, status: int = 400) -> HTTPException:
    """What a client gets for a request that cannot be answered: the sentence, as `detail`."""
    return HTTPException(status_code=status, detail=message)


def reason_of(error: Exception) -> str:
    """What a client is told of one scan of many that could not be done. What no sentence was written for is logged, too."""
    if isinstance(error, HTTPException):
        return str(error.detail)
    if isinstance(error, ScanError):
        return str(error)
    logger.warning("a scan was left out", exc_info=error)
    return f"{type(error).__name__}: {error}"


def checked(kind: type[Kind], request: dict) -> Kind:
    """The options of a request.

    Raises:
        HTTPException: 400 with one sentence about the first option that is wrong.
    """
    known = {k: v for k, v in request.items() if k in kind.model_fields and v is not None}
    try:
        return kind.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise refuse(f"the option {where} cannot be used: {first['msg'].removeprefix('Value error, ')}") from None
