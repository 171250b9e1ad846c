"""The text around a question in templates of different kinds: system prompts, and examples as earlier turns."""

import types

import jinja2
import pytest

from pubswap_jax.questions import chat, sources

PLACE = "[the question]"
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
OWN = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
QWEN = f"{OWN}{{% for m in messages %}}{TURN}{{% endfor %}}{ASK}"
BARE = f"{{% for m in messages %}}{TURN}{{% endfor %}}{ASK}"
LLAMA = (
    "<bos>{% if messages[0].role == 'system' %}{% set s = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}<sys>Today is Monday. {{ s }}<end>"
    "{% for m in rest %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
REFUSES = "{% if messages[0].role == 'system' %}{{ 1 / 0 }}{% endif %}<user>{{ messages[0].content }}"


def around(template, system, examples=(), bos="<bos>"):
    """What `chat.around` gives, as texts: a token is a character."""

    def apply(messages, tokenize, add_generation_prompt):
        return jinja2.Template(template, keep_trailing_newline=True).render(
            messages=messages, add_generation_prompt=add_generation_prompt
        )

    class Fake(types.SimpleNamespace):
        def __call__(self, text, **_):
            return types.SimpleNamespace(input_ids=list(text))

    hf = Fake(chat_template=template, bos_token=bos, apply_chat_template=apply)
    return tuple("".join(part) for part in chat.around(hf, PLACE, system, examples, {}))


USER, ASSISTANT = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("bos", ["<|im_start|>", None])  # SmolLM2's first token is the one that begins every turn
def test_an_empty_system_prompt_removes_the_templates_own(bos):
    assert around(QWEN, None, bos=bos) == (f"<|im_start|>system\nBe kind.<|im_end|>\n{USER}", ASSISTANT)
    assert around(QWEN, "", bos=bos) == (USER, ASSISTANT)
    assert around(QWEN, "Be short.", bos=bos)[0] == f"<|im_start|>system\nBe short.<|im_end|>\n{USER}"


def test_a_template_without_a_prompt_of_its_own_stays_as_it_is():
    assert around(BARE, "") == around(BARE, None) == (USER, ASSISTANT)
    assert around(REFUSES, "") == around(REFUSES, None) == ("<user>", "")


def test_a_first_token_stays_where_the_system_turn_goes():
    assert around(LLAMA, None)[0] == "<bos><sys>Today is Monday. <end><user>"
    assert around(LLAMA, "") == ("<bos><user>", "<end><assistant>")


def test_examples_are_earlier_turns():
    shown = f"{USER}1+1?{ASSISTANT}2<|im_end|>\n{USER}"
    assert around(BARE, None, [("1+1?", "2")])[0] == shown
    assert around(QWEN, "", [("1+1?", "2")])[0] == shown
    assert around(QWEN, None, [("1+1?", "2")])[0] == f"<|im_start|>system\nBe kind.<|im_end|>\n{shown}"
    assert around(None, "Sums.", [("1+1?", "2")]) == ("Sums.\n\n1+1?\n2\n\n", "\n")


def test_examples_from_a_file(tmp_path):
    file = tmp_path / "shots.jsonl"
    file.write_text('{"question": "1+1?", "answer": 2, "topic": "sums"}\n{"question": "3-1?", "answer": "3-1"}\n')
    assert sources.examples(str(file)) == [("1+1?", "2"), ("3-1?", "3-1")]
    file.write_text('{"question": "1+1?", "answer": ""}\n')
    with pytest.raises(ValueError, match=r"config.model.examples: .*every row needs a question and an answer"):
        sources.examples(str(file))
