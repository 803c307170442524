"""Dialogues as a chat model's own template writes them, and where their answers are."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from cotbal.integrations.dialogues import IMAGE
from cotbal.integrations.huggingface.chat_template import ChatTemplate, pieces_of
from cotbal.integrations.huggingface.finetune.records import Item

Span = tuple[int, int]


class Written(NamedTuple):
    """A dialogue as a text.

    Attributes:
        text: a picture as its placeholder.
        answers: from where to where each answer is, with the token that ends it.
        blocks: the first answer of all, and the first behind each turn with a picture after it: its number,
            and where the words begin that the template asks for it with.
    """

    text: str
    answers: list[Span]
    blocks: list[tuple[int, int]]

    def marked(self) -> str:
        """The text, what is trained on in [[ ]]."""
        parts, done = [], 0
        for start, end in self.answers:
            parts += [self.text[done:start], "[[", self.text[start:end], "]]"]
            done = end
        return "".join([*parts, self.text[done:]])


class _Answer(NamedTuple):
    """An answer in a dialogue.

    Attributes:
        text: without white space around it.
        prompt: the dialogue before it, asking for it.
        whole: the dialogue up to it.
    """

    text: str
    prompt: str
    whole: str


class DialogueWriter:
    """Writes dialogues, each answer as a generation would have to go on from the prompt before it.

    An answer goes up to the token that ends it. A template that ends none gets an end behind each, as LLaVA
    trains. Of one that leaves an empty thought out before earlier answers, as Qwen's, each answer is written
    as the last one is.

    Args:
        template: of the model.
        stops: the tokens at which the model's generation ends, as text, the tokenizer's own first.
    """

    def __init__(self, template: ChatTemplate, stops: Sequence[str]) -> None:
        self.template, self.stops = template, tuple(stops)
        self._marks = tuple(map(str, template.tokenizer.added_tokens_decoder.values()))

    def write(self, item: Item) -> Written:
        """A record's text, and where its answers are.

        Raises:
            ValueError: the template writes the prompt of an answer, or an answer, in another way.
        """
        template, turns = self.template, item.dialogue.turns
        messages = [] if turns[0].role == "system" else template.opening()
        answers: list[_Answer] = []
        asked: dict[int, int] = {}
        is_behind = True
        try:
            for place, turn in enumerate(turns):
                pieces = pieces_of(turn.text)
                is_behind |= len(pieces) > 1
                if turn.role != "assistant":
                    messages.append(template.message(turn.role, pieces))
                    continue
                prompt = template.written(messages, asks=True)
                if is_behind:
                    asked[len(answers)], is_behind = 0, False
                    # Nothing looks for the answers behind the last picture.
                    if any(IMAGE in each.text for each in turns[place:]):
                        before = template.written(messages, asks=False)
                        asked[len(answers)] = max(0, len(prompt) - len(before))
                # White space before it could make one token with the prompt's end.
                answer = turn.text.strip()
                messages.append(template.message(turn.role, [answer]))
                answers.append(_Answer(answer, prompt, template.written(messages, asks=False)))
        except ValueError as error:
            raise ValueError(f"{item.name}: {error}") from error
        text, spans, blocks = answers[0].prompt, list[Span](), []
        prompts = [*(answer.prompt for answer in answers[1:]), None]
        for each, following in zip(answers, prompts, strict=True):
            trained, rest = self._trained(item, each.text, self._piece(item, each, following))
            if len(spans) in asked:
                blocks.append((len(spans), len(text) - asked[len(spans)]))
            spans.append((len(text), len(text) + len(trained)))
            text += trained + rest
        return Written(text, spans, blocks)

    def _piece(self, item: Item, answer: _Answer, following: str | None) -> str:
        """What the template writes behind an answer's prompt, up to the end of the next, if there is one."""
        text, prompt, whole = answer
        if whole.startswith(prompt):
            if following is None:
                return whole[len(prompt) :]
            if following.startswith(whole):
                return following[len(prompt) :]
            own = whole[len(prompt) :]
            for place in _places_of(text, own):
                # Ended in another way than the last answer.
                if following.startswith(prompt + own[:place] + text):
                    return following[len(prompt) :]
                # Without the words before it.
                rest = self._behind(whole, len(prompt) + place, following)
                if rest is not None:
                    return own + rest
        came = following if following is not None and whole.startswith(prompt) else whole
        raise ValueError(
            f"{item.name}: expected a chat template whose prompt, which ends with {prompt[-40:]!r}, "
            f"begins the dialogue, got {came[max(0, len(prompt) - 40) :][:60]!r} in its place; give other "
            "--chat_template_kwargs ('{\"enable_thinking\": false}' where it begins a thought), or another "
            "--chat_template"
        )

    def _behind(self, whole: str, place: int, following: str) -> str | None:
        """What follows a dialogue in the next prompt, where words right before its last answer are left out.

        Args:
            whole: the dialogue.
            place: of the last answer in it.
            following: the next prompt.
        """
        kept = whole[place:]
        start = following.rfind(kept, 0, place + len(kept))
        while start >= 0 and not whole.startswith(following[:start]):
            start = following.rfind(kept, 0, start + len(kept) - 1)
        # They are of its turn alone, whose end is kept.
        is_ended = any(stop in kept for stop in self.stops)
        if start < 0 or not is_ended or any(stop in whole[start:place] for stop in self.stops):
            return None
        return following[start + len(kept) :]

    def _trained(self, item: Item, answer: str, piece: str) -> tuple[str, str]:
        """An answer as the template writes it, up to its end, and what comes after it."""
        found = [(place, stop) for stop in self.stops if (place := piece.find(stop)) >= 0]
        if found:
            place, stop = min(found)
            if self._ends_with(piece[:place], answer):
                return piece[: place + len(stop)], piece[place + len(stop) :]
        elif piece.lstrip().startswith(answer):
            place = len(piece) - len(piece.lstrip()) + len(answer)
            return piece[:place] + self._end, piece[place:]
        elif piece.rstrip().endswith(answer):
            place = len(piece.rstrip())
            return piece[:place] + self._end, piece[place:]
        raise ValueError(
            f"{item.name}: expected a chat template that writes its answers as they are, and a token that "
            f"ends generation ({', '.join(self.stops)}) right behind each, got {piece[:100]!r} for "
            f"{answer[:60]!r}"
        )

    @cached_property
    def _end(self) -> str:
        """What ends an answer that the template ends with nothing: the next turn's first token, as GLM's.

        Where generation does not end there, the tokenizer's own end.
        """
        template = self.template
        talk = [template.message("user", ["a"]), template.message("assistant", ["b"])]
        whole = template.written(talk, asks=False)
        more = template.written([*talk, template.message("user", ["c"])], asks=False)
        behind = more.removeprefix(whole)
        return next((stop for stop in self.stops if behind.startswith(stop)), self.stops[0])

    def _ends_with(self, words: str, answer: str) -> bool:
        """Whether the words end with an answer, but for tokens that the template puts behind each."""
        words = words.rstrip()
        while not words.endswith(answer):
            token = next((each for each in self._marks if words.endswith(each)), None)
            if token is None:
                return False
            words = words.removesuffix(token).rstrip()
        return True


def _places_of(part: str, text: str) -> list[int]:
    """Where a part begins in a text, the last place first."""
    return [place for place in range(len(text) - len(part), -1, -1) if text.startswith(part, place)]
