"""The paper's table 1: the tasks of its mixture, their sizes and their response format instructions."""

from typing import NamedTuple

VQA_INSTRUCTION = "Answer the question using a single word or phrase."
CAPTION_INSTRUCTION = "Provide a short description for this region."
BBOX_INSTRUCTION = "Provide the bounding box coordinate of the region this sentence describes."


class PaperTask(NamedTuple):
    """A row of the table.

    Attributes:
        thousands: conversations to train on.
        instruction: what tells the model the form of the answer, None where nothing does.
    """

    thousands: int
    instruction: str | None


TABLE = {
    "ShareGPT": PaperTask(41, None),
    "ShareGPT4V": PaperTask(98, None),
    "VQAv2": PaperTask(83, VQA_INSTRUCTION),
    "GQA": PaperTask(72, VQA_INSTRUCTION),
    "ChartQA": PaperTask(18, VQA_INSTRUCTION),
    "OCRVQA": PaperTask(80, VQA_INSTRUCTION),
    "RefCOCO-caption": PaperTask(41, CAPTION_INSTRUCTION),
    "RefCOCO-bbox": PaperTask(41, BBOX_INSTRUCTION),
}
# As printed; its rows, each rounded, add up to 474.
TOTAL_THOUSANDS = 475
# Text alone: in the mixture, but neither weighted nor in the mini subsets.
FIXED = ("ShareGPT",)
