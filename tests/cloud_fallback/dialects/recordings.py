"""Streams as the providers send them, written by hand from their documentation."""

from __future__ import annotations

from spillover.cloud_fallback.providers.dialects.dialect import ProviderUsage
from tests.cloud_fallback.dialects.recorded import Answer, Call, Recording, named, sse


def _openai(
    *deltas: str, head: str = '"id":"chatcmpl-9","model":"gpt-4o-2024-08-06",'
) -> list[str]:
    return [f'{{{head}"object":"chat.completion.chunk",{delta}}}' for delta in deltas]


def _delta(fields: str, finish: str = "null") -> str:
    return f'"choices":[{{"index":0,"delta":{{{fields}}},"finish_reason":{finish}}}]'


OPENAI_TEXT = Recording(
    name="openai text",
    dialect="openai",
    frames=sse(
        *_openai(
            _delta('"role":"assistant","content":"","refusal":null'),
            _delta('"content":"Hel"') + ',"obfuscation":"a8Xq"',
            _delta('"content":"lo \\ud83e\\udd8a"'),
            _delta("", '"stop"') + ',"usage":null',
            '"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,'
            '"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},'
            '"completion_tokens_details":{"reasoning_tokens":0}}',
        ),
        "[DONE]",
    ),
    answer=Answer(text="Hello 🦊"),
    usage=ProviderUsage(prompt_tokens=9, completion_tokens=3, cached_tokens=4),
    model="gpt-4o-2024-08-06",
    n_needed=4,
)
OPENAI_TOOLS = Recording(
    name="openai tools",
    dialect="openai",
    frames=sse(
        *_openai(
            _delta(
                '"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"call_a",'
                '"type":"function","function":{"name":"weather","arguments":""}}]'
            ),
            _delta('"tool_calls":[{"index":0,"function":{"arguments":"{\\"city\\":"}}]'),
            _delta('"tool_calls":[{"index":0,"function":{"arguments":"\\"Rome\\"}"}}]'),
            _delta(
                '"tool_calls":[{"index":1,"id":"call_b","type":"function",'
                '"function":{"name":"clock","arguments":""}}]'
            ),
            _delta("", '"tool_calls"'),
        ),
        "[DONE]",
    ),
    answer=Answer(
        calls=(Call("call_a", "weather", '{"city":"Rome"}'), Call("call_b", "clock", "{}"))
    ),
    reason="tool_calls",
    model="gpt-4o-2024-08-06",
    n_needed=5,
)
AZURE_TEXT = Recording(
    name="azure text",
    dialect="azure",
    frames=sse(
        '{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":'
        '[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false}}}]}',
        *_openai(
            _delta('"content":"","role":"assistant"'),
            '"choices":[{"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}},'
            '"delta":{"content":"Good day."},"finish_reason":null,"index":0,"logprobs":null}]',
            '"choices":[{"content_filter_offsets":{"check_offset":0},"content_filter_results":{},'
            '"finish_reason":null,"index":0}]',
            _delta("", '"stop"'),
        ),
        "[DONE]",
    ),
    answer=Answer(text="Good day."),
    model="gpt-4o-2024-08-06",
    n_needed=5,
)
AZURE_FILTERED = Recording(
    name="azure filtered",
    dialect="azure",
    frames=sse(
        *_openai(
            _delta('"content":"First, take"'),
            _delta("", '"content_filter"'),
        ),
        "[DONE]",
    ),
    answer=Answer(text="First, take"),
    reason="content_filter",
    model="gpt-4o-2024-08-06",
    n_needed=2,
)
HUGGINGFACE_REASONING = Recording(
    name="huggingface reasoning",
    dialect="huggingface",
    frames=sse(
        *_openai(
            _delta('"role":"assistant","reasoning_content":"Two and two"'),
            _delta('"reasoning_content":" make four.","content":null'),
            _delta('"content":"4"'),
            _delta('"content":""', '"length"'),
            '"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":8,'
            '"completion_tokens_details":{"reasoning_tokens":6}}',
            head='"id":"","model":"tgi",',
        ),
        "[DONE]",
    ),
    answer=Answer(text="4", reasoning="Two and two make four."),
    reason="length",
    usage=ProviderUsage(prompt_tokens=5, completion_tokens=8, reasoning_tokens=6),
    model="tgi",
    n_needed=4,
)
ANTHROPIC_TEXT = Recording(
    name="anthropic text",
    dialect="anthropic",
    frames=named(
        'message_start {"type":"message_start","message":{"id":"msg_1","type":"message",'
        '"role":"assistant","model":"claude-sonnet-4-5-20250929","content":[],'
        '"stop_reason":null,"usage":{"input_tokens":20,"cache_creation_input_tokens":3,'
        '"cache_read_input_tokens":7,"output_tokens":1}}}',
        'content_block_start {"type":"content_block_start","index":0,'
        '"content_block":{"type":"text","text":""}}',
        'ping {"type":"ping"}',
        'content_block_delta {"type":"content_block_delta","index":0,'
        '"delta":{"type":"text_delta","text":"Hel"}}',
        'content_block_delta {"type":"content_block_delta","index":0,'
        '"delta":{"type":"text_delta","text":"lo"}}',
        'content_block_stop {"type":"content_block_stop","index":0}',
        'message_delta {"type":"message_delta","delta":{"stop_reason":"stop_sequence",'
        '"stop_sequence":"\\n\\n"},"usage":{"output_tokens":15}}',
        'message_stop {"type":"message_stop"}',
    ),
    answer=Answer(text="Hello"),
    stop="\n\n",
    usage=ProviderUsage(prompt_tokens=30, completion_tokens=15, cached_tokens=7),
    model="claude-sonnet-4-5-20250929",
    n_needed=8,
)
ANTHROPIC_TOOLS = Recording(
    name="anthropic thinking and tools",
    dialect="anthropic",
    frames=named(
        'message_start {"type":"message_start","message":{"id":"msg_2","model":"claude-opus-5",'
        '"usage":{"input_tokens":40,"output_tokens":2}}}',
        'content_block_start {"type":"content_block_start","index":0,'
        '"content_block":{"type":"thinking","thinking":"","signature":""}}',
        'content_block_delta {"type":"content_block_delta","index":0,'
        '"delta":{"type":"thinking_delta","thinking":"Ask the tool."}}',
        'content_block_delta {"type":"content_block_delta","index":0,'
        '"delta":{"type":"signature_delta","signature":"RXZhbA=="}}',
        'content_block_stop {"type":"content_block_stop","index":0}',
        'content_block_start {"type":"content_block_start","index":1,'
        '"content_block":{"type":"redacted_thinking","data":"ZW5j"}}',
        'content_block_start {"type":"content_block_start","index":2,'
        '"content_block":{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search"}}',
        'content_block_delta {"type":"content_block_delta","index":2,'
        '"delta":{"type":"input_json_delta","partial_json":"{\\"query\\":1}"}}',
        'content_block_start {"type":"content_block_start","index":3,"content_block":'
        '{"type":"tool_use","id":"toolu_1","name":"weather","input":{}}}',
        'content_block_delta {"type":"content_block_delta","index":3,'
        '"delta":{"type":"input_json_delta","partial_json":""}}',
        'content_block_delta {"type":"content_block_delta","index":3,'
        '"delta":{"type":"input_json_delta","partial_json":"{\\"city\\": \\"Ro"}}',
        'content_block_delta {"type":"content_block_delta","index":3,'
        '"delta":{"type":"input_json_delta","partial_json":"me\\"}"}}',
        'content_block_stop {"type":"content_block_stop","index":3}',
        'content_block_start {"type":"content_block_start","index":4,"content_block":'
        '{"type":"tool_use","id":"toolu_2","name":"clock","input":{}}}',
        'content_block_stop {"type":"content_block_stop","index":4}',
        'message_delta {"type":"message_delta","delta":{"stop_reason":"tool_use",'
        '"stop_sequence":null},"usage":{"input_tokens":44,"output_tokens":60,'
        '"output_tokens_details":{"thinking_tokens":21}}}',
        'message_stop {"type":"message_stop"}',
    ),
    answer=Answer(
        reasoning="Ask the tool.",
        calls=(Call("toolu_1", "weather", '{"city": "Rome"}'), Call("toolu_2", "clock", "{}")),
    ),
    reason="tool_calls",
    usage=ProviderUsage(prompt_tokens=44, completion_tokens=60, reasoning_tokens=21),
    model="claude-opus-5",
    n_needed=17,
)
ANTHROPIC_REFUSAL = Recording(
    name="anthropic refusal",
    dialect="anthropic",
    frames=named(
        'message_start {"type":"message_start","message":{"id":"msg_3","model":"claude-opus-5",'
        '"usage":{"input_tokens":4,"output_tokens":1}}}',
        'message_delta {"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":'
        '{"type":"refusal","category":"bio","explanation":null}},"usage":{"output_tokens":1}}',
        'message_stop {"type":"message_stop"}',
    ),
    answer=Answer(),
    reason="content_filter",
    usage=ProviderUsage(prompt_tokens=4, completion_tokens=1),
    model="claude-opus-5",
    n_needed=3,
)
GEMINI_TEXT = Recording(
    name="gemini text",
    dialect="gemini",
    frames=sse(
        '{"candidates":[{"content":{"parts":[{"text":"Add them.","thought":true}],'
        '"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":6,"totalTokenCount":6},'
        '"modelVersion":"gemini-2.5-flash","responseId":"aB3d"}',
        '{"candidates":[{"content":{"parts":[{"text":"It is "},{"text":"four"}],"role":"model"},'
        '"index":0,"safetyRatings":[]}],"modelVersion":"gemini-2.5-flash"}',
        '{"candidates":[{"content":{"parts":[{"text":".","thoughtSignature":"QQ=="}],'
        '"role":"model"},"index":0}]}',
        '{"candidates":[{"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":6,'
        '"candidatesTokenCount":4,"thoughtsTokenCount":11,"cachedContentTokenCount":2,'
        '"totalTokenCount":21},"modelVersion":"gemini-2.5-flash"}',
    ),
    answer=Answer(text="It is four.", reasoning="Add them."),
    usage=ProviderUsage(
        prompt_tokens=6, completion_tokens=15, cached_tokens=2, reasoning_tokens=11
    ),
    model="gemini-2.5-flash",
    n_needed=4,
)
VERTEX_TOOLS = Recording(
    name="vertex tools",
    dialect="vertex",
    frames=sse(
        '{"candidates":[{"content":{"role":"model","parts":[{"functionCall":{"name":"weather",'
        '"args":{"city":"Rome","days":2}},"thoughtSignature":"QQ=="}]}}],"responseId":"r-7"}',
        '{"candidates":[{"content":{"role":"model","parts":[{"functionCall":{"name":"clock",'
        '"args":{}}}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":30,'
        '"candidatesTokenCount":12}}',
    ),
    answer=Answer(
        calls=(
            Call("call_r-7_0", "weather", '{"city":"Rome","days":2}'),
            Call("call_r-7_1", "clock", "{}"),
        )
    ),
    reason="tool_calls",
    usage=ProviderUsage(prompt_tokens=30, completion_tokens=12),
    n_needed=2,
)
GEMINI_SAFETY = Recording(
    name="gemini safety",
    dialect="gemini",
    frames=sse(
        '{"candidates":[{"content":{"parts":[{"text":"Well"}]},"index":0}]}',
        '{"candidates":[{"finishReason":"SAFETY","index":0,"safetyRatings":[{"category":'
        '"HARM_CATEGORY_DANGEROUS_CONTENT","probability":"HIGH","blocked":true}]}]}',
    ),
    answer=Answer(text="Well"),
    reason="content_filter",
    n_needed=2,
)
COHERE_TEXT = Recording(
    name="cohere text",
    dialect="cohere",
    frames=named(
        'message-start {"type":"message-start","id":"29f14a5a","delta":{"message":{"role":'
        '"assistant","content":[],"tool_plan":"","tool_calls":[],"citations":[]}}}',
        'content-start {"type":"content-start","index":0,"delta":{"message":{"content":'
        '{"type":"thinking","thinking":""}}}}',
        'content-delta {"type":"content-delta","index":0,"delta":{"message":{"content":'
        '{"thinking":"Greet."}}}}',
        'content-end {"type":"content-end","index":0}',
        'content-start {"type":"content-start","index":1,"delta":{"message":{"content":'
        '{"type":"text","text":""}}}}',
        'content-delta {"type":"content-delta","index":1,"delta":{"message":{"content":'
        '{"text":"Hel"}}},"logprobs":{"token_ids":[1]}}',
        'content-delta {"type":"content-delta","index":1,"delta":{"message":{"content":'
        '{"text":"lo"}}}}',
        'citation-start {"type":"citation-start","index":0,"delta":{"message":{"citations":'
        '{"start":0,"end":5,"text":"Hello","sources":[]}}}}',
        'content-end {"type":"content-end","index":1}',
        'message-end {"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":'
        '{"billed_units":{"input_tokens":5.0,"output_tokens":10},'
        '"tokens":{"input_tokens":71,"output_tokens":12},"cached_tokens":3}}}',
    )
    + sse("[DONE]"),
    answer=Answer(text="Hello", reasoning="Greet."),
    usage=ProviderUsage(prompt_tokens=5, completion_tokens=10, cached_tokens=3),
    n_needed=10,
)
COHERE_TOOLS = Recording(
    name="cohere tools",
    dialect="cohere",
    frames=named(
        'message-start {"type":"message-start","id":"29f14a5a"}',
        'tool-plan-delta {"type":"tool-plan-delta","delta":{"message":{"tool_plan":'
        '"Look it up."}}}',
        'tool-call-start {"type":"tool-call-start","index":0,"delta":{"message":{"tool_calls":'
        '{"id":"weather_k3","type":"function","function":{"name":"weather","arguments":""}}}}}',
        'tool-call-delta {"type":"tool-call-delta","index":0,"delta":{"message":{"tool_calls":'
        '{"function":{"arguments":"{\\"city\\":"}}}}}',
        'tool-call-delta {"type":"tool-call-delta","index":0,"delta":{"message":{"tool_calls":'
        '{"function":{"arguments":"\\"Rome\\"}"}}}}}',
        'tool-call-end {"type":"tool-call-end","index":0}',
        'message-end {"type":"message-end","delta":{"finish_reason":"TOOL_CALL","usage":'
        '{"tokens":{"input_tokens":71,"output_tokens":12}}}}',
    ),
    answer=Answer(
        reasoning="Look it up.", calls=(Call("weather_k3", "weather", '{"city":"Rome"}'),)
    ),
    reason="tool_calls",
    usage=ProviderUsage(prompt_tokens=71, completion_tokens=12),
    n_needed=7,
)
TGI_TEXT = Recording(
    name="tgi text",
    dialect="tgi",
    frames=sse(
        '{"index":1,"token":{"id":9,"text":" Hel","logprob":-0.1,"special":false},'
        '"generated_text":null,"details":null}',
        '{"index":2,"token":{"id":10,"text":"lo","logprob":-0.2,"special":false},'
        '"generated_text":null,"details":null}',
        '{"index":3,"token":{"id":2,"text":"</s>","logprob":0.0,"special":true},'
        '"generated_text":" Hello","details":{"finish_reason":"eos_token","generated_tokens":3,'
        '"seed":null,"input_length":12}}',
    ),
    answer=Answer(text=" Hello"),
    usage=ProviderUsage(prompt_tokens=12, completion_tokens=3),
    n_needed=3,
)
BEDROCK_TEXT = Recording(
    name="bedrock text",
    dialect="bedrock",
    frames=named(
        'messageStart {"role":"assistant"}',
        'contentBlockDelta {"contentBlockIndex":0,"delta":{"reasoningContent":{"text":"Greet."}}}',
        'contentBlockDelta {"contentBlockIndex":0,"delta":{"reasoningContent":{"signature":"QQ"}}}',
        'contentBlockStop {"contentBlockIndex":0}',
        'contentBlockDelta {"contentBlockIndex":1,"delta":{"text":"Hel"},"p":"abcd"}',
        'contentBlockDelta {"contentBlockIndex":1,"delta":{"text":"lo"},"p":"ab"}',
        'contentBlockStop {"contentBlockIndex":1}',
        'messageStop {"stopReason":"max_tokens","additionalModelResponseFields":null}',
        'metadata {"usage":{"inputTokens":11,"outputTokens":5,"totalTokens":16,'
        '"cacheReadInputTokens":4,"cacheWriteInputTokens":1},"metrics":{"latencyMs":500}}',
    ),
    answer=Answer(text="Hello", reasoning="Greet."),
    reason="length",
    usage=ProviderUsage(prompt_tokens=16, completion_tokens=5, cached_tokens=4),
    n_needed=8,
)
BEDROCK_TOOLS = Recording(
    name="bedrock tools",
    dialect="bedrock",
    frames=named(
        'messageStart {"role":"assistant"}',
        'contentBlockStart {"contentBlockIndex":0,"start":{"toolUse":{"toolUseId":"tooluse_1",'
        '"name":"weather"}}}',
        'contentBlockDelta {"contentBlockIndex":0,"delta":{"toolUse":{"input":""}}}',
        'contentBlockDelta {"contentBlockIndex":0,"delta":{"toolUse":{"input":"{\\"city\\":"}}}',
        'contentBlockDelta {"contentBlockIndex":0,"delta":{"toolUse":{"input":"\\"Rome\\"}"}}}',
        'contentBlockStop {"contentBlockIndex":0}',
        'contentBlockStart {"contentBlockIndex":1,"start":{"toolUse":{"toolUseId":"tooluse_2",'
        '"name":"clock"}}}',
        'contentBlockStop {"contentBlockIndex":1}',
        'messageStop {"stopReason":"tool_use"}',
        'metadata {"usage":{"inputTokens":11,"outputTokens":5,"totalTokens":16},'
        '"metrics":{"latencyMs":500}}',
    ),
    answer=Answer(
        calls=(Call("tooluse_1", "weather", '{"city":"Rome"}'), Call("tooluse_2", "clock", "{}"))
    ),
    reason="tool_calls",
    usage=ProviderUsage(prompt_tokens=11, completion_tokens=5),
    n_needed=9,
)

RECORDINGS = tuple(value for value in list(globals().values()) if isinstance(value, Recording))
