"""Chat templates in the ways of published models, and what transformers makes of each.

`python models/tests/chat_templates.py` writes chat_templates.json; it needs transformers, the tests do not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("chat_templates.json")
BOS, EOS = "<s>", "</s>"
MESSAGES = [
    {"role": "system", "content": "Be <brief> & 'kind'.\n"},
    {"role": "user", "content": "  Grüße, \N{SLIGHTLY SMILING FACE}\n\n{{ 7 * 7 }} "},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": 'And "now"?'},
]
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_3_1 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("roles must alternate user/assistant") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"] + eos_token}}
    {%- endif %}
{%- endfor %}
"""
TEMPLATES = {
    "llama 3": LLAMA_3,
    "llama 3.1": LLAMA_3_1,
    "chatml": CHATML,
    "mistral": MISTRAL,
    "json": "{% for m in messages %}{{ m | tojson }}{{ m | tojson(indent=2) }}{% endfor %}",
    "blocks and lines": (
        "{% for m in messages %}\n  {% if loop.first %}\n  first {{ m.role }}\n  {% endif %}\n{% endfor %}\nend"
    ),
    "loop controls": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{{ m.content }}{% break %}{% endfor %}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "tools and documents": (
        "{{ tools is none }} {{ documents is none }} {{ tools }}{% if not tools %} no tools{% endif %}"
    ),
    "macros": (
        "{% macro turn(m) %}<{{ m.role }}>{{ caller() }}{% endmacro %}{% for m in messages %}"
        "{% call turn(m) %}{{ m.content }}{% endcall %}{% endfor %}"
    ),
    "strings": (
        "{% for m in messages %}{{ '%s|%d' | format(m.role, loop.index) }} "
        "{{ m.content.strip().split('\n')[0].upper() }} "
        "{{ '{0:>12}'.format(m.role) }} {{ m.role ~ '-' * 3 }}{{ m.content | length }}{% endfor %}"
    ),
    "filters": (
        "{{ messages | map(attribute='role') | join(', ') }}"
        " {{ (messages | selectattr('role', 'equalto', 'user') | list)[-1].content }}"
        " {{ messages | length }}{{ missing }}"
    ),
    "globals": (
        "{% set c = cycler('a', 'b') %}{% for m in messages %}{{ c.next() }}{% endfor %}"
        "{{ range(3) | list }}{{ dict(a=1) }}"
    ),
}


def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return found


def main() -> None:
    import transformers
    from transformers.utils.chat_template_utils import render_jinja_template

    def of(template: str) -> str:
        (text,), _ = render_jinja_template(
            [MESSAGES], chat_template=template, add_generation_prompt=True, bos_token=BOS, eos_token=EOS
        )
        return str(text)

    texts = {name: of(template) for name, template in TEMPLATES.items()}
    told = {"transformers": transformers.__version__, "texts": texts}
    RECORDED.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
