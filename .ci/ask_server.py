"""ask_server SPILLOVER CONFIG: starts the server and streams an answer of the bundled model."""

import json
import subprocess
import sys
import urllib.request

command = [sys.argv[1], "serve", "--config", sys.argv[2], "--port", "0"]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
    try:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if line.startswith("address"):
                break
        else:
            sys.exit("the server did not start:\n" + "".join(lines))
        messages = [{"role": "user", "content": "Tell me a story about a dog named Max."}]
        body = {"stream": True, "max_tokens": 40, "seed": 1, "messages": messages}
        asked = urllib.request.Request(
            line.split()[1].rstrip("/") + "/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=60) as response:
            events = [line[6:].strip() for line in response if line.startswith(b"data: ")]
    finally:
        server.terminate()
        server.communicate()
assert events[-1] == b"[DONE]", events
deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
text = "".join(delta.get("content") or "" for delta in deltas)
assert text.strip(), events
print(f"through the server: {text.strip()}")
