"""Writes templates.json: chat templates, conversations, and what Transformers renders of them.

Needs `transformers` and `jinja2` (no torch). A date in an expected text stands as @DATE:<format>@.
"""

import json
import pathlib
import types

import jinja2
import transformers
from transformers.utils import chat_template_utils


class FrozenDate:
    @staticmethod
    def now():
        return types.SimpleNamespace(strftime=lambda fmt: f"@DATE:{fmt}@")


chat_template_utils.datetime = FrozenDate

CHAT = [("user", "What is 2+2?"), ("assistant", "Four."), ("user", "  And <b>5 & 7</b>?\nΠόσο; 🦀  ")]
WITH_SYSTEM = [("system", "Be brief. ")] + CHAT
ONE = [("user", "hi")]
CONVERSATIONS = {"chat": CHAT, "with_system": WITH_SYSTEM, "one": ONE, "none": []}
# What an assistant has begun to say, and is to go on with.
BEGUN = {
    "begun": "Four, because",
    "begun_with_space": "  Four,\n because \n",
    "begun_with_nothing": "",
    "begun_in_thought": "<think>\nTwo and two",
    "begun_after_thought": "<think>\nTwo and two.\n</think>\n\nFour",
}

MODELS = {
    "smollm2": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}""",
    "chatml": """{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "llama3": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- The system message, if there is one. #}
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
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "mistral": """{%- if messages and messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
""",
    "qwen": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{ tool | tojson }}{% endfor %}
{%- else %}
    {%- if messages and messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" and not message.tool_calls %}
        {%- set content = message.content %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    "gemma2": """{{ bos_token }}{% if messages and messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}""",
    "gemma3": """{{ bos_token }}
{%- if messages and messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
""",
    "phi3": """{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'user' %}{{'<|user|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% else %}{{ eos_token }}{% endif %}""",
    "smollm3": """{%- set today = strftime_now("%d %B %Y") -%}
{%- if messages and messages[0].role == "system" -%}
  {%- set system_message = messages[0].content -%}
  {%- if "/no_think" in system_message -%}
    {%- set reasoning_mode = "/no_think" -%}
  {%- endif -%}
  {%- set custom_instructions = system_message.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{{- "<|im_start|>system\\n## Metadata\\n\\nToday Date: " ~ today ~ "\\nReasoning Mode: " + reasoning_mode | default("/think") + "\\n\\n" -}}
{%- if custom_instructions -%}
  {{- custom_instructions + "\\n\\n" -}}
{%- endif -%}
{{- "<|im_end|>\\n" -}}
{%- for message in messages -%}
  {%- set content = message.content if message.content is string else "" -%}
  {%- if message.role == "user" -%}
    {{ "<|im_start|>" + message.role + "\\n"  + content + "<|im_end|>\\n" }}
  {%- elif message.role == "assistant" -%}
    {%- generation -%}
    {{ "<|im_start|>assistant\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
    {%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{ "<|im_start|>assistant\\n" }}
{%- endif -%}
""",
}

# One helper each. `d` and `l` below are short names for data that many of them use.
DATA = """{%- set d = {'b': 1, 'a': [1, 2.5, none, true], 'ü<&>\\'"': 'é\\n\\t\\\\"/😀', 'n': {'x': {}, 'y': []}} -%}
{%- set l = ['one', 'Two', 'three'] -%}
"""
EXPRESSIONS = [
    "d | tojson",
    "d | tojson(indent=2)",
    "d | tojson(indent=4)",
    "d | tojson(indent=0)",
    "d | tojson(indent=none)",
    "d | tojson(ensure_ascii=true)",
    "d | tojson(sort_keys=true)",
    "d | tojson(separators=(',', ':'))",
    "d | tojson(separators=(',', ': '), indent=1, sort_keys=true)",
    "[1.0, 0.1, 1e16, 1e15, 123456789012345680.0, 1e-5, 0.0001, 1.5e300, -0.0, 3] | tojson",
    "'\\u2028\\x7f\\x00' | tojson",
    "{1: 'a', none: 'b', true: 'c', 2.5: 'd'} | tojson",
    "messages | tojson",
    "messages[0] | tojson(indent=2)",
    "'<script>&' | tojson",
    "l | tojson | length",
    "() | tojson",
    "(1, 2) | tojson",
    "messages[::-1] | map(attribute='role') | join(',')",
    "l[1:] | join",
    "l[-1] ~ l[-2:] | length ~ l[:-1] | join('+')",
    "l[::2] | list",
    "'abcdef'[1:-1:2] ~ 'abcdef'[::-1]",
    "l",
    "d.n",
    "[none, true, 1, 1.5, 'q\\'t', \"d\\\"q\"]",
    "none",
    "true ~ false ~ none",
    "1.0 ~ 7 / 2 ~ 7 // 2 ~ -7 // 2 ~ 7 % 3 ~ -7 % 3 ~ 2 ** 10",
    "'  x y '.strip() ~ '|' ~ '  x '.lstrip() ~ '|' ~ ' x  '.rstrip() ~ '|'",
    "'xxaxx'.strip('x') ~ '--a'.lstrip('-') ~ 'a\\n\\n'.rstrip('\\n')",
    "'a,b,,c'.split(',')",
    "' a  b '.split()",
    "'a b c d'.split(' ', 2)",
    "'a<think>b</think>c'.split('</think>')[-1]",
    "'hello world'.title() ~ 'hELLO'.capitalize() ~ 'Ab'.upper() ~ 'Ab'.lower()",
    "'hello'.startswith('he') ~ 'hello'.endswith(('x', 'lo')) ~ 'hello'.find('l') ~ 'hello'.rfind('l')",
    "'a-b-a'.replace('a', 'c') ~ 'a-b-a'.replace('a', 'c', 1) ~ 'aXbX'.count('X')",
    "'123'.isdigit() ~ 'a1'.isalnum() ~ 'ab'.isalpha() ~ 'AB'.isupper() ~ ' '.isspace()",
    "'a\\nb\\r\\nc'.splitlines()",
    "'-'.join(l)",
    "'{} and {}'.format(1, 'b')",
    "'%s=%d' | format('a', 3)",
    "'%05.2f|%-5s|%x' | format(3.14159, 'ab', 255)",
    "'abc' | upper | lower | capitalize",
    "'hello world' | title",
    "'  pad ' | trim ~ '|'",
    "l | first ~ l | last ~ l | length ~ l | reverse | join(' ')",
    "l | sort | join(',')",
    "[3, 1, 2] | sort(reverse=true)",
    "[1, 2, 3] | sum ~ [1, 2, 3] | max ~ [1, 2, 3] | min",
    "l | map('upper') | list",
    "[1, 2, 3, 4] | select('odd') | list",
    "[1, 2, 3, 4] | reject('gt', 2) | list",
    "messages | selectattr('role', 'equalto', 'user') | list | length",
    "messages | rejectattr('role', 'equalto', 'user') | map(attribute='content') | list",
    "[1, 1, 2] | unique | list",
    "d.items() | list | length ~ d.keys() | list | first",
    "d | items | list | length",
    "d | dictsort | first | first",
    "d.get('b') ~ d.get('zz', 'dflt') ~ d.get('zz')",
    "nope | default('fallback') ~ '' | default('empty', true)",
    "nope is defined ~ d is defined ~ nope is none ~ none is none",
    "d is mapping ~ l is sequence ~ l is iterable ~ 'a' is string ~ 1 is number ~ 1.5 is float ~ 1 is integer",
    "true is true ~ false is false ~ true is boolean ~ 4 is even ~ 4 is divisibleby(2)",
    "'b' in d ~ 'zz' not in d ~ 'ell' in 'hello' ~ 'one' in l",
    "'a' if nope else 'b'",
    "('x' if false) ~ '|'",
    "1 if 1 < 2 <= 2 and not 3 == 4 or false else 0",
    "range(3) | list ~ range(5, 1, -2) | list",
    "'3' | int + 1 ~ 2",
    "('3' | int + 1) ~ '2.5' | float ~ 3.7 | int ~ 2.567 | round(1) ~ 2.5 | round",
    "1 + 2 ~ 3 * 4",
    "none + 'x'",
    "nope.attribute",
    "messages[7].role",
    "'a\\nb' | indent(2) ~ '|' ~ 'a\\nb' | indent(4, true)",
    "'<a>' | e ~ '<a>' | safe",
    "-3 | abs ~ [1, 2, 3, 4, 5] | slice(2) | list",
    "'a' ~ 1 ~ 2.0 ~ none ~ [1]",
    "'ab' * 2 ~ [1] + [2]",
    "l | batch(2) | list",
    "[[1, 'a'], [2, 'b']] | map('first') | list",
    "messages | map(attribute='content') | map('trim') | join('/')",
    "messages | groupby('role') | map('first') | join(',')",
    "dict(a=1, b=[2]) | tojson",
    "'caf\\u00e9' | length ~ '🦀x'[1]",
    "'x' | string ~ 1 | string",
    "1000000 * 1000000 * 1000000",
    "(1, 2)",
    "{'a': {'b': 'c'}}['a'].b",
    "'A' < 'B'",
    "not nope",
    "'ß'.upper() ~ 'İ'.lower() | length",
    "'<think>a</think>'.removeprefix('<think>').removesuffix('</think>') ~ 'ab'.removeprefix('x') ~ ''.removesuffix('')",
    "'a.b.c'.rsplit('.', 1) ~ 'a.b.c'.rsplit('.') ~ 'a.b.c'.split('.', maxsplit=1) ~ 'a.b'.rsplit(sep='.')",
    "'  a  b   c  '.split(none, 1) ~ '  a  b   c  '.rsplit(none, 1) ~ ' a b '.rsplit() ~ ''.split() ~ ''.split(',')",
    "' a b '.split(none, 0) ~ ' a b '.rsplit(maxsplit=0) ~ 'a b'.split(none, 5) ~ 'a,b'.split(',', 0)",
    "'a\u3000b\u00a0c\x1fd'.split() ~ 'ääöä'.rsplit('ä', 2)",
    "'a b'.split('')",
    "'k=v=w'.partition('=') ~ 'k=v=w'.rpartition('=') ~ 'k'.partition('=') ~ 'k'.rpartition('=')",
    "'ab'.center(7) ~ '|' ~ 'ab'.center(6, '*') ~ '|' ~ 'abc'.center(6, 'ü') ~ '|' ~ 'abc'.center(2) ~ '|'",
    "'ab'.ljust(5) ~ '|' ~ 'ab'.rjust(5, '.') ~ '|' ~ 'äb'.rjust(4) ~ '|'",
    "'ab' | center(9) ~ '|' ~ 'abc' | center(width=8) ~ '|' ~ 'x' | center | length",
    "'one two three four' | truncate(9) ~ '|' ~ 'one two three four' | truncate(9, true) ~ '|' ~ 'one two' | truncate(3)",
    "'one two three four' | truncate(length=10, end='…', leeway=0) ~ 'one two' | truncate(5, false, '', 0)",
    "'one two three' | truncate(8, true, '..', 0) ~ 'onetwothreefour' | truncate(8, leeway=1) ~ 'äöü äöü' | truncate(5, leeway=0)",
    "('word ' * 80) | truncate | length",
    "'one, two: it\\'s 3_4 über 日本' | wordcount ~ '' | wordcount",
]
STATEMENTS = {
    "loop_variables": "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.cycle('a', 'b') }}{{ loop.previtem.role if loop.previtem is defined }}>{{ loop.nextitem.role if loop.nextitem is defined }};{% endfor %}",
    "loop_changed": "{% for m in messages %}{% if loop.changed(m.role) %}{{ m.role }}{% endif %}{% endfor %}",
    "break_continue": "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "for_else": "{% for i in [] %}x{% else %}none{% endfor %}{% for i in [1, 2, 3] if i != 2 %}{{ i }}{% endfor %}",
    "for_unpack": "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}{% for k in {'x': 1} %}{{ k }}{% endfor %}",
    "recursive": "{% for i in [{'c': [{'c': []}]}] recursive %}({{ loop.depth }}{{ loop(i.c) }}){% endfor %}",
    "namespace": "{% set ns = namespace(n=0, found=false) %}{% for m in messages %}{% set ns.n = ns.n + m.content|length %}{% if m.role == 'user' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.n }}{{ ns.found }}",
    "scoping": "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}",
    "macro": "{% macro turn(role, text='-', *, end='.') %}[{{ role }}:{{ text }}{{ end }}]{% endmacro %}{{ turn('a') }}{{ turn('b', 'c', end='!') }}{{ turn(text='t', role='r') }}".replace(
        ", *, end", ", end"
    ),
    "macro_recursive": "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "macro_caller": "{% macro wrap(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro %}{% call wrap('b') %}hi{% endcall %}",
    "set_block": "{% set text %}  a {{ 1 + 1 }}\n{% endset %}[{{ text }}]{% set up | upper %}abc{% endset %}{{ up }}",
    "filter_block": "{% filter upper %}abc {{ 'def' }}{% endfilter %}",
    "with": "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}",
    "raw": "{% raw %}{{ not }} {% a %}{% endraw %}!",
    "comments": "a{# one #}b\n{#- two -#}\nc\n  {# three #}\nd",
    "whitespace": "  {% if true %}\n    a\n  {% endif %}\nb\n{%- if true -%}\n  c\n{%- endif %}\n\n{% if true +%}\nd\n{%+ endif %}\n  {{ 'e' }}\n{{- 'f' -}}\n g\n",
    "trailing_newline": "a\n\n",
    "generation": "x\n  {% generation %}\n  y {{ messages[0].role }}\n  {% endgeneration %}\nz{%- generation -%} w {%- endgeneration -%} v",
    "elif_chain": "{% for x in [1, 'a', none, [1], {'k': 1}] %}{% if x is none %}N{% elif x is string %}S{% elif x is mapping %}M{% elif x is iterable %}I{% else %}O{% endif %}{% endfor %}",
    "tools": "{% if tools %}T{% endif %}{{ tools is none }}{{ tools is defined }}{{ documents is none }}{{ xtra is defined }}{% if not tools is defined %}u{% endif %}",
    "special_tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}",
    "tool_calls": "{% for m in messages %}{% if m.tool_calls is defined and m.tool_calls %}x{% endif %}{{ 'tool_calls' in m }}{{ m.get('tool_calls') }}{{ m['name'] }}{% endfor %}",
    "raise": "{{ raise_exception('no: ' ~ messages | length) }}",
    "raise_inside": "{% macro check(m) %}{% if m.role not in ['user'] %}{{ raise_exception('Unexpected role: ' + m.role) }}{% endif %}{% endmacro %}{% for m in messages %}{{ check(m) }}{{ m.content }}{% endfor %}",
    "date": "{{ strftime_now('%Y-%m-%d') }}{% set d = strftime_now(\"%d %b %Y\") %}|{{ d }}",
    "undefined_attribute": "{{ messages[0].nope }}|{{ messages[0]['nope'] }}|{% if messages[0].nope %}x{% endif %}",
    "nested_loops": "{% for a in [1, 2] %}{% for b in ['x', 'y'] %}{{ loop.index }}{{ a }}{{ b }}{% if not loop.last %},{% endif %}{% endfor %};{% endfor %}",
    "long_strings": "{{ 'a' 'b' }}{{ \"it's\" }}{{ 'say \"x\"' }}{{ '\\\\n' }}{{ '\\t|' }}",
    "line_continued": "{{ ('a' +\n   'b')\n   | upper }}",
    "json_schema": "{% set t = {'type': 'function', 'function': {'name': 'f', 'description': 'Gets <x> & \"y\"', 'parameters': {'type': 'object', 'properties': {'q': {'type': ['string', 'null'], 'enum': ['a', 'b'], 'default': none}}, 'required': ['q']}}} %}{{ t | tojson }}\n{{ t.function.parameters | tojson(indent=4) }}{% for k, v in t.function.parameters.properties.items() %}{{ k }}: {{ v.type | join(' | ') }}{% endfor %}",
    "loop_controls_nested": "{% for i in range(3) %}{% for j in range(3) %}{% if j == 1 %}{% continue %}{% endif %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}",
    "set_tuple": "{% set a, b = 1, 'x' %}{{ a }}{{ b }}",
    "joiner": "{% set comma = joiner() %}{% set bar = joiner('|') %}{% for i in range(3) %}{{ comma() }}{{ bar() }}{{ i }}{% endfor %}",
    "reasoning": "{% for m in messages %}{% set parts = m.content.partition('+') %}{% if parts[1] %}{{ parts[0].rsplit(' ', 1)[-1] }}{% else %}{{ m.content.removesuffix('.') }}{% endif %};{% endfor %}",
    "do_nothing": "{{ '' }}{{ none }}{{ nope }}",
}


# Instead of whether the assistant's turn begins: it goes on.
CONTINUE = None


def cases():
    for name, template in MODELS.items():
        yield f"{name}/with_system_begun", template, [*WITH_SYSTEM, ("assistant", BEGUN["begun"])], CONTINUE
        for begun, text in BEGUN.items():
            yield f"{name}/{begun}", template, [*ONE, ("assistant", text)], CONTINUE
    for name, template in MODELS.items():
        for conversation, messages in CONVERSATIONS.items():
            for prompt in (True, False):
                yield f"{name}/{conversation}", template, messages, prompt
    for expression in EXPRESSIONS:
        yield expression, DATA + "{{ " + expression + " }}", CHAT, True
    for name, template in STATEMENTS.items():
        yield name, template, CHAT, True


def render(template, messages, prompt):
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    chat = [{"role": role, "content": content} for role, content in messages]
    how = {"continue_final_message": True} if prompt is CONTINUE else {"add_generation_prompt": prompt}
    try:
        rendered, _ = chat_template_utils.render_jinja_template([chat], chat_template=template, **how, **tokens)
        return {"rendered": rendered[0]}
    except jinja2.exceptions.TemplateSyntaxError as error:
        raise SystemExit(f"{template}: {error}") from error
    except (jinja2.exceptions.UndefinedError, TypeError, ValueError) as error:
        # What Transformers says of texts that a template changes is its own affair.
        return {"refused": ""} if prompt is CONTINUE else {"fails": str(error)}
    except jinja2.exceptions.TemplateError as error:
        return {"refused": str(error)}


def main():
    out = [
        {"name": name, "template": template, "messages": messages, "add_generation_prompt": prompt}
        | render(template, messages, prompt)
        for name, template, messages, prompt in cases()
    ]
    made = {"transformers": transformers.__version__, "jinja2": jinja2.__version__}
    path = pathlib.Path(__file__).with_name("templates.json")
    path.write_text(json.dumps({"made_with": made, "cases": out}, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
