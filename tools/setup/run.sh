#!/usr/bin/env bash
# Creates or completes .venv: tools/setup/run.sh PYTHON [--development]; PYTHON '' chooses one.
# The newest Python from 3.11 on that can create environments is used; a complete .venv is not touched.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

wanted=${1-}
shift || true
can_run='import sys; sys.exit(sys.version_info < (3, 11))'
can_create='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'

if [ -z "$wanted" ] && .venv/bin/python -m tools.setup --check "$@" 2>/dev/null; then exit 0; fi

candidates=(python3.13 python3.12 python3.11 python3)
[ -z "$wanted" ] || candidates=("$wanted")
without_venv=''
for candidate in "${candidates[@]}"; do
  if "$candidate" -c "$can_create" 2>/dev/null; then
    exec "$candidate" -m tools.setup ${wanted:+--python} "$@"
  fi
  if [ -z "$without_venv" ] && "$candidate" -c "$can_run" 2>/dev/null; then without_venv=$candidate; fi
done

if [ -n "$without_venv" ]; then
  echo "setup: $without_venv has no venv module." >&2
  echo '       Install it (Debian: apt-get install python3-venv), or name another Python:' >&2
else
  echo "setup: Python 3.11 or newer not found${wanted:+: $wanted}." >&2
  echo '       Install one (Debian: apt-get install python3 python3-venv), or name it:' >&2
fi
echo '       make setup PYTHON=/path/to/python3.12' >&2
exit 1
