"""How model families write tool calls: one row for each format."""

from __future__ import annotations

from spillover.runtime.tools.tool_format import ToolFormat

HERMES = ToolFormat(name="hermes", opening="<tool_call>", closing="</tool_call>")
"""Hermes, Qwen 2.5 and 3, Granite 4, and others: each call between tags."""

LLAMA = ToolFormat(name="llama", opening="<|python_tag|>", arguments="parameters", may_be_bare=True)
"""Llama 3.1 and later: the answer is one JSON object."""

MISTRAL = ToolFormat(name="mistral", opening="[TOOL_CALLS]", is_list=True, id_chars=9)
"""Mistral's templates accept only ids of nine characters."""

MISTRAL_ARGS = ToolFormat(
    name="mistral-args", opening="[TOOL_CALLS]", encoding="json", separator="[ARGS]", id_chars=9
)
"""Mistral since mid-2025: name, separator, arguments."""

MISTRAL_IDS = ToolFormat(
    name="mistral-ids",
    opening="[TOOL_CALLS]",
    encoding="json",
    separator="[ARGS]",
    id_marker="[CALL_ID]",
    gap="[a-zA-Z0-9]{9}",
    id_chars=9,
)
"""The same with the call's id after its name."""

QWEN_CODER = ToolFormat(
    name="qwen-coder",
    opening="<tool_call>",
    closing="\n</tool_call>",
    encoding="tags",
    call_opening="\n<function=",
    separator=">\n",
    key_opening="<parameter=",
    key_closing=">",
    value_opening="\n",
    value_closing="\n</parameter>\n",
    call_closing="</function>",
)
"""Qwen3-Coder, Qwen 3.5, Nemotron 3, Step 3.5."""

SEED = ToolFormat(
    name="seed",
    opening="<seed:tool_call>",
    closing="\n</seed:tool_call>",
    encoding="tags",
    call_opening="\n<function=",
    separator=">\n",
    key_opening="<parameter=",
    key_closing=">",
    value_closing="</parameter>\n",
    call_closing="</function>",
)
"""Seed-OSS."""

GLM = ToolFormat(
    name="glm",
    opening="<tool_call>",
    encoding="tags",
    key_opening="\n<arg_key>",
    key_closing="</arg_key>\n",
    value_opening="<arg_value>",
    value_closing="</arg_value>",
    call_closing="\n</tool_call>",
)
"""GLM 4.5 and later, Ling 3, Laguna, Spark 2.5."""

HUNYUAN = ToolFormat(
    name="hunyuan",
    opening="<tool_calls:opensource>",
    closing="\n</tool_calls:opensource>",
    is_sequence=True,
    encoding="tags",
    call_opening="\n<tool_call:opensource>",
    separator="<tool_sep:opensource>",
    key_opening="\n<arg_key:opensource>",
    key_closing="</arg_key:opensource>\n",
    value_opening="<arg_value:opensource>",
    value_closing="</arg_value:opensource>",
    call_closing="\n</tool_call:opensource>",
)
"""Tencent's Hy3."""

MINIMAX = ToolFormat(
    name="minimax",
    opening="<minimax:tool_call>",
    closing="\n</minimax:tool_call>",
    is_sequence=True,
    encoding="tags",
    call_opening='\n<invoke name="',
    separator='">\n',
    key_opening='<parameter name="',
    key_closing='">',
    value_closing="</parameter>\n",
    call_closing="</invoke>",
)
"""MiniMax M2."""

ATEM = ToolFormat(
    name="atem",
    opening="<atem:function_calls>",
    closing="\n</atem:function_calls>",
    is_sequence=True,
    encoding="tags",
    call_opening='\n<atem:invoke name="',
    separator='">\n',
    key_opening='<atem:parameter name="',
    key_closing='">',
    value_closing="</atem:parameter>\n",
    call_closing="</atem:invoke>",
)
"""Muse."""


def _dsml(section: str) -> ToolFormat:
    return ToolFormat(
        name=f"deepseek-{section.replace('_', '-')}",
        opening=f"<\uff5cDSML\uff5c{section}>",
        closing=f"\n</\uff5cDSML\uff5c{section}>",
        is_sequence=True,
        encoding="tags",
        call_opening='\n<\uff5cDSML\uff5cinvoke name="',
        separator='">\n',
        key_opening='<\uff5cDSML\uff5cparameter name="',
        key_closing='" string="',
        text_mark="true",
        other_marks="false",
        value_opening='">',
        value_closing="</\uff5cDSML\uff5cparameter>\n",
        call_closing="</\uff5cDSML\uff5cinvoke>",
    )


DEEPSEEK_DSML = (_dsml("function_calls"), _dsml("tool_calls"))
"""DeepSeek V3.2 and V4."""

KIMI_K3 = ToolFormat(
    name="kimi-k3",
    opening="<|open|>tools<|sep|>",
    closing="<|close|>tools<|sep|>",
    is_sequence=True,
    encoding="tags",
    call_opening='<|open|>call tool="',
    gap='" index="[0-9]{1,3}',
    separator='"<|sep|>',
    key_opening='<|open|>argument key="',
    key_closing='" type="',
    text_mark="string",
    other_marks="number|boolean|object|array|null",
    value_opening='"<|sep|>',
    value_closing="<|close|>argument<|sep|>",
    call_closing="<|close|>call<|sep|>",
)

KIMI_K2 = ToolFormat(
    name="kimi-k2",
    opening="<|tool_calls_section_begin|>",
    closing="<|tool_calls_section_end|>",
    is_sequence=True,
    encoding="json",
    call_opening="<|tool_call_begin|>functions.",
    gap=":[0-9]{1,3}",
    separator="<|tool_call_argument_begin|>",
    call_closing="<|tool_call_end|>",
)

DEEPSEEK_V3 = ToolFormat(
    name="deepseek-v3",
    opening="<\uff5ctool\u2581calls\u2581begin\uff5c>",
    closing="<\uff5ctool\u2581calls\u2581end\uff5c>",
    is_sequence=True,
    encoding="json",
    call_opening="<\uff5ctool\u2581call\u2581begin\uff5c>function<\uff5ctool\u2581sep\uff5c>",
    separator="\n```json\n",
    call_closing="\n```<\uff5ctool\u2581call\u2581end\uff5c>",
)
"""DeepSeek V3 and R1."""

DEEPSEEK_V31 = ToolFormat(
    name="deepseek-v3.1",
    opening="<\uff5ctool\u2581calls\u2581begin\uff5c>",
    closing="<\uff5ctool\u2581calls\u2581end\uff5c>",
    is_sequence=True,
    encoding="json",
    call_opening="<\uff5ctool\u2581call\u2581begin\uff5c>",
    separator="<\uff5ctool\u2581sep\uff5c>",
    call_closing="<\uff5ctool\u2581call\u2581end\uff5c>",
)

FUNCTIONARY = ToolFormat(
    name="functionary",
    opening="<function=",
    encoding="json",
    separator=">",
    call_closing="</function>",
)
"""Functionary 3.1."""

FUNCTIONARY_TURNS = ToolFormat(
    name="functionary-turns", opening=">>>", may_be_text=True, encoding="json", separator="\n"
)
"""Functionary 3.2. A text has the name "all"."""

HARMONY = ToolFormat(
    name="harmony",
    leads=("<|start|>assistant", "<|channel|>commentary", " "),
    opening="to=functions.",
    encoding="json",
    gap_parts=("<|channel|>commentary", " ", "<|constrain|>", "json"),
    gap=r"(?:<\|channel\|>commentary)?\s*(?:<\|constrain\|>)?\s*(?:json)?",
    separator="<|message|>",
)
"""gpt-oss. The recipient stands before or behind the channel; <|call|> ends the answer."""

NEMOTRON = ToolFormat(name="nemotron", opening="<TOOLCALL>", closing="</TOOLCALL>", is_list=True)
"""Nemotron Nano 2."""

MINIMAX_M3 = ToolFormat(
    name="minimax-m3",
    opening="]<]minimax[>[<tool_call>",
    closing="\n]<]minimax[>[</tool_call>",
    is_sequence=True,
    encoding="elements",
    call_opening='\n]<]minimax[>[<invoke name="',
    separator='">',
    key_opening="]<]minimax[>[<",
    key_closing=">",
    value_closing="]<]minimax[>[</",
    call_closing="]<]minimax[>[</invoke>",
)
"""MiniMax M3."""

MINICPM = ToolFormat(
    name="minicpm",
    opening='<function name="',
    encoding="tags",
    separator='">',
    key_opening='<param name="',
    key_closing='">',
    value_closing="</param>",
    text_opening="<![CDATA[",
    text_closing="]]>",
    call_closing="</function>",
)
"""MiniCPM 5."""

APERTUS = ToolFormat(
    name="apertus",
    opening="<|tools_prefix|>",
    encoding="json",
    is_list=True,
    call_opening='{"',
    separator='": ',
    call_closing="}",
)
"""What closes the list, <|tools_suffix|>, adds no text."""

SOLAR = ToolFormat(
    name="solar",
    leads=("<|begin|>assistant",),
    opening="<|tool_calls|>",
    is_sequence=True,
    encoding="json",
    call_opening="<|tool_call:begin|>",
    call_id="[a-zA-Z0-9]{1,24}",
    name_opening="<|tool_call:name|>",
    separator="<|tool_call:args|>",
    call_closing="<|tool_call:end|>",
    id_chars=10,
)
"""Solar Open. <|calls|> ends the answer."""

APRIEL = ToolFormat(name="apriel", opening="<tool_calls>", closing="</tool_calls>", is_list=True)

MINIMAX_M1 = ToolFormat(
    name="minimax-m1", opening="<tool_calls>", closing="\n</tool_calls>", is_sequence=True
)

COMMAND = ToolFormat(
    name="command",
    opening="<|START_ACTION|>",
    closing="<|END_ACTION|>",
    name_member="tool_name",
    arguments="parameters",
    id_member="tool_call_id",
    is_list=True,
)
"""Command R7B and later."""

GRANITE = ToolFormat(name="granite", opening="<|tool_call|>", is_list=True)
"""Granite 3."""

PHI = ToolFormat(name="phi", opening="<|tool_call|>", closing="<|/tool_call|>", is_list=True)
"""Phi-4-mini."""

FUNCTOOLS = ToolFormat(name="functools", opening="functools", is_list=True, may_be_text=True)
"""Phi's other form. It is also a module of Python's."""

GIGACHAT = ToolFormat(name="gigachat", opening="<|function_call|>")
"""GigaChat 3.1."""

GIGACHAT_TURN = ToolFormat(
    name="gigachat-turn",
    leads=("<|message_sep|>", "\n\n"),
    opening="function call<|role_sep|>\n",
)
"""GigaChat 3: a call is a turn of its own, and the answer before it may be empty."""

GEMMA = ToolFormat(
    name="gemma",
    opening="<|tool_call>",
    closing="<tool_call|>",
    encoding="literals",
    call_opening="call:",
    separator="{",
    key_closing=":",
    call_closing="}",
    quotes=('<|"|>',),
)
"""Gemma 4."""

LFM2 = ToolFormat(
    name="lfm2",
    opening="<|tool_call_start|>",
    closing="<|tool_call_end|>",
    encoding="literals",
    is_list=True,
    separator="(",
    key_closing="=",
    call_closing=")",
    quotes=('"', "'"),
)

LLAMA_PYTHON = ToolFormat(
    name="llama-python",
    opening="<|python_start|>",
    closing="<|python_end|>",
    encoding="literals",
    is_list=True,
    separator="(",
    key_closing="=",
    call_closing=")",
    quotes=('"', "'"),
)
"""Llama 4."""

FORMATS = (
    MISTRAL,
    MISTRAL_ARGS,
    MISTRAL_IDS,
    HERMES,
    QWEN_CODER,
    GLM,
    SEED,
    HUNYUAN,
    MINIMAX,
    MINIMAX_M3,
    ATEM,
    MINICPM,
    *DEEPSEEK_DSML,
    KIMI_K3,
    KIMI_K2,
    DEEPSEEK_V3,
    DEEPSEEK_V31,
    HARMONY,
    SOLAR,
    APERTUS,
    FUNCTIONARY,
    FUNCTIONARY_TURNS,
    NEMOTRON,
    MINIMAX_M1,
    APRIEL,
    COMMAND,
    PHI,
    GRANITE,
    FUNCTOOLS,
    GIGACHAT,
    GIGACHAT_TURN,
    GEMMA,
    LFM2,
    LLAMA_PYTHON,
    LLAMA,
)
"""A template's own format is the first one whose parser reads what it writes."""
