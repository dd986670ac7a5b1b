# Sourced by the other scripts: goes to the checkout's top and makes .venv from the pinned
# requirements when they have changed since it was last made.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
# The tests start hundreds of Python processes; without compiled modules each would compile its own.
unset PYTHONDONTWRITEBYTECODE

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    echo "$candidate"
    return
  done
  die "Python 3.11 or newer is needed; set PYTHON=/path/to/python3 if it is not on the PATH"
}

# why_no_filters PYTHON: prints why cel-expr-python has no wheel for this Python, which is published
# without its source; prints nothing where it has one.
why_no_filters() {
  "$1" -c 'import sys, sysconfig
if sys.implementation.name != "cpython":
    print(sys.implementation.name)
elif sys.version_info >= (3, 15):
    print("Python %d.%d" % sys.version_info[:2])
elif "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or ""):
    print("musl")'
}

# requirements_for PYTHON FILE: prints the requirements that can be installed for this Python.
requirements_for() {
  local why
  why=$(why_no_filters "$1") || return 1
  if [ -z "$why" ]; then cat "$2"; return; fi
  say "no wheel of cel-expr-python for $why: filter= will answer 501, everything else works"
  awk '/^[^ #]/ { skip = /^cel-expr-python==/ } !skip' "$2"
}

# make_env runtime|dev
make_env() {
  local wanted=$1 stamp=.venv/.made-from key python
  python=$(find_python) || exit 1
  key=$(cat "requirements/$wanted.txt" pyproject.toml | "$python" -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
  [ -f "$stamp" ] && grep -qx "$wanted $key" "$stamp" && return
  [ "$wanted" = runtime ] && [ -f "$stamp" ] && grep -q '^dev ' "$stamp" && wanted=dev &&
    { make_env dev; return; }
  say "making .venv from requirements/$wanted.txt"
  [ -x .venv/bin/python ] || "$python" -m venv .venv ||
    die "could not make a virtual environment; on Debian: apt-get install python3-venv"
  requirements_for .venv/bin/python "requirements/$wanted.txt" >.venv/requirements.txt ||
    die "could not read requirements/$wanted.txt"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
    -r .venv/requirements.txt || die "installing requirements/$wanted.txt failed"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e . ||
    die "installing the package itself failed"
  echo "$wanted $key" >"$stamp"
}
