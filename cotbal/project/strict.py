"""What every part of the YAML file's model is made of."""

import os.path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]
# A command has its words quoted, so that no shell replaces the ~.
PathText = Annotated[Text, AfterValidator(os.path.expanduser)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Strict(BaseModel):
    """A model whose unknown keys are errors."""

    # Strict: YAML has types of its own, and `yes` is no number.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
