"""Chat templates of strangers: what a sound one says is what transformers says, a hostile one is refused in time."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from enginebench_models import chat_template
from enginebench_models.chat_template import LIMITS, Limits, rendered
from enginebench_models.errors import InvalidModel

from .chat_templates import BOS, EOS, MESSAGES, TEMPLATES, recorded

SHORT = Limits(cpu_seconds=1)
LONGEST_CPU_SECONDS = 2.5
"""The limit, and the start of Python on a machine with other work."""


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_sound_template_says_what_transformers_says(name: str) -> None:
    assert rendered(TEMPLATES[name], MESSAGES, BOS, EOS) == recorded()["texts"][name]


WALKS = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__()[100].__init__.__globals__ }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages[0].items.__self__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__.__builtins__ }}",
    "{{ raise_exception.__globals__.resource }}",
    "{{ raise_exception.__code__ }}",
    "{{ dict.mro() }}",
    "{{ lipsum.__globals__.os }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{x.__class__.__mro__}'.format_map({'x': ''}) }}",
    "{% set f = '{0.__class__}'.format %}{{ f('') }}",
    "{{ ('{0.__class__.__init__}'|attr('format'))('') }}",
    "{{ ['{0.__class__}'] | map('attr', 'format') | map('attr', '__call__') | list }}",
    "{{ (1).__class__.from_bytes }}",
    "{{ caller.__closure__ }}",
]
OTHERS = [
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].__setitem__('role', 'x') }}",
    "{% do messages.pop() %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% from 'os' import system %}",
    "{% extends 'base' %}",
    "{{ open('/etc/passwd').read() }}",
    "{{ ''.join(lipsum()) }}",
    "{{ [1, 2] | random }}",
    "{{ raise_exception('roles must alternate') }}",
    "{{ unfinished",
    "{% for x in messages %}",
    "{{ 1 / 0 }}",
]
LARGE = [
    "{% for x in range(10**9) %}{% endfor %}",
    "{{ ('a' * 10**11) | length }}",
    "{{ ([0] * 10**10) | length }}",
    "{{ 'a'.ljust(10**11) }}",
    "{{ '%99999999999d' % 1 }}",
    "{{ '{:99999999999}'.format(1) }}",
    "{{ 'a' | center(10**11) }}",
    "{{ [1] | batch(10**10, 0) | list }}",
    "{{ messages | tojson(indent=10**11) }}",
    "{% set n = namespace(s='ab') %}{% for x in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "{% for a in range(20000) %}{{ 'x' * 1000 }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "{{ " + "[" * 20_000 + "]" * 20_000 + " }}",
    "{% if 1 %}" * 5_000 + "{% endif %}" * 5_000,
    "{{ " + "-" * 100_000 + "1 }}",
]
ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 9**(9**9) }}",
    "{{ (2**(10**7))**(10**3) }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% if a ~ b is none %}x{% endif %}{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("template", [*WALKS, *OTHERS, *LARGE, *ENDLESS], ids=lambda template: template[:60])
def test_a_hostile_or_broken_template_is_refused_in_time(template: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(InvalidModel, match="chat template failed") as caught:
        rendered(template, MESSAGES, BOS, EOS, SHORT)
    assert ".py" not in str(caught.value), "refused for want of a module"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < LONGEST_CPU_SECONDS
    assert after.ru_maxrss << 10 < 2 * SHORT.memory_bytes


WIDE = "{{ ('a' * 300000000) | length }}"


@pytest.mark.parametrize(
    ("template", "text", "wide"),
    [
        (WIDE, "300000000", Limits(memory_bytes=2 << 30)),
        ("x" * 2000, "x" * 2000, LIMITS),
        ("{{ 'x' * 2000 }}", "x" * 2000, LIMITS),
        ("{{ '\N{SLIGHTLY SMILING FACE}' * 2000 }}", "\N{SLIGHTLY SMILING FACE}" * 2000, LIMITS),
    ],
)
def test_it_is_the_limits_that_refuse(template: str, text: str, wide: Limits) -> None:
    """Negative control: with more of it the same template is rendered."""
    tight = Limits(memory_bytes=256 << 20, prompt_characters=1000, template_characters=1500)
    assert rendered(template, [], BOS, EOS, wide) == text
    with pytest.raises(InvalidModel, match="chat template failed"):
        rendered(template, [], BOS, EOS, tight)


def test_a_process_that_sleeps_is_ended_by_the_clock(child: Callable[[str], None]) -> None:
    child("import time; time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(InvalidModel, match="takes more than"):
        rendered("x", [], BOS, EOS, Limits(wall_seconds=0.5))
    assert time.monotonic() - began < 10


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """child("print(1)"): what runs in the place of the process, as if a template had taken it over."""

    def replace(code: str) -> None:
        script = tmp_path / "python"
        body = tmp_path / "body.py"
        body.write_text(code)
        script.write_text(f"#!/bin/sh\nexec {chat_template.sys.executable} {body}\n")
        script.chmod(0o700)
        monkeypatch.setattr(chat_template.sys, "executable", str(script))

    return replace


@pytest.mark.parametrize(
    "code",
    [
        "",
        "import os; os.abort()",
        "print('no sign')",
        "print('-' + 'x' * 1000)",
        "print('+' + 'x' * 200000)",
        "import sys\nwhile True: sys.stdout.write('+' * 65536)",
    ],
)
def test_whatever_a_process_that_was_taken_over_answers_is_refused(child: Callable[[str], None], code: str) -> None:
    child(code)
    with pytest.raises(InvalidModel, match="chat template failed"):
        rendered("x", [], BOS, EOS, Limits(wall_seconds=5.0, prompt_characters=100_000))


def test_words_of_a_template_cannot_drive_a_terminal() -> None:
    template = "{{ raise_exception('\\x1b]0;title\\x07\\u202e') }}"
    with pytest.raises(InvalidModel) as caught:
        rendered(template, [], BOS, EOS)
    assert "title" in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_same_messages_give_the_same_prompt() -> None:
    """No clock, no dice."""
    template = "{{ strftime_now is defined }} {{ lipsum is defined }}"
    assert rendered(template, MESSAGES, BOS, EOS) == "False False"


COSTLY = """
from pathlib import Path
from enginebench_models.chat_template import Limits, rendered
text = rendered("{{ '\\N{SLIGHTLY SMILING FACE}' * 4000000 }}", [], "", "")
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(len(text), int(peak.split()[1]) >> 10)  # not ru_maxrss: that of whoever forked us is in it
"""


def test_the_longest_answer_costs_its_reader_no_more_than_its_own_size() -> None:
    """As JSON it was a piece of memory for each character."""
    done = subprocess.run([sys.executable, "-c", COSTLY], capture_output=True, text=True, check=True)
    length, mebibytes = map(int, done.stdout.split())
    assert length == 4_000_000
    assert mebibytes < 150
