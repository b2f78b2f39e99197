"""A process of the pipeline that is none: answers /readyz, and does what its arguments say.

    python -m tests.infra.stub_process [--deaf] [--never-ready] [--fail TEXT] [--child FILE]
"""

import http.server
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from streams import settings


class Handler(http.server.BaseHTTPRequestHandler):
    ready = True

    def do_GET(self) -> None:
        """/readyz says whether it is ready, everything else shows the environment."""
        own = {name: value for name, value in os.environ.items() if name.startswith(("LOYALTY_", "STUB_"))}
        body = json.dumps({"pid": os.getpid(), "environment": own}).encode()
        self.send_response(200 if self.ready or self.path != "/readyz" else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def main(arguments: list[str]) -> None:
    print("stub started", flush=True)
    if "--fail" in arguments:
        sys.exit(arguments[arguments.index("--fail") + 1])
    if "--deaf" in arguments:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "--child" in arguments:
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        Path(arguments[arguments.index("--child") + 1]).write_text(str(child.pid))
    Handler.ready = "--never-ready" not in arguments
    port = settings.load().http_port
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
