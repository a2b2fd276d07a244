"""python -m toolkit.worker.constraints.check_schema: whether a grammar can be built, in a process with limits.

Standard input: a JSON Schema. Standard output: why answers can't follow it, nothing if they can. The limits of the
package do not cover every schema: some make it compute for minutes.
"""

from __future__ import annotations

import importlib
import math
import resource
import sys
import time

from toolkit.system.private_files import restrict_new_files
from toolkit.worker.constraints.response_format import LIMITS, PACKAGE, write_grammar
from toolkit.worker.process.limits import limit_memory_growth

CPU_SECONDS = 2
"""Computing time for a check, after the imports."""
MEMORY_BYTES = 1 << 30


def main() -> None:
    """Check the schema in standard input."""
    schema = sys.stdin.read()
    library = importlib.import_module(PACKAGE)
    limit_memory_growth(MEMORY_BYTES)
    until = math.ceil(time.process_time()) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (until, until))
    print(library.LLMatcher.validate_grammar(write_grammar(schema), limits=library.LLParserLimits(**LIMITS)))


if __name__ == "__main__":
    restrict_new_files()
    main()
