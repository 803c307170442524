"""What every part of the YAML file's model is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Strict(BaseModel):
    """A model whose unknown keys are errors."""

    # Strict: YAML has types of its own, and `yes` is no number.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
