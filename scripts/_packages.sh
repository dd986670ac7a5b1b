# Sourced by scripts that need more than Python: installs system packages where that is allowed,
# else prints the command that does it. All messages go to stderr.
#
# EVENTSTREAMS_NO_INSTALL=1, which `scripts/test --no-install` sets for everything that it starts,
# forbids installing.

# need_packages WHY ALTERNATIVES... : installs, for each argument "a|b|c", the first of these packages
# that the package manager knows, and prints its name before.
need_packages() {
  local why=$1 wanted names name chosen=() as_root=() line; shift
  for wanted in "$@"; do chosen+=("${wanted%%|*}"); done
  line="apt-get install -y ${chosen[*]}"
  command -v apt-get >/dev/null ||
    die "$why; install what your system calls: ${chosen[*]}"
  [ -z "${EVENTSTREAMS_NO_INSTALL:-}" ] || die "$why, and nothing may be installed; run: $line"
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || die "$why; run: sudo $line"
    as_root=(sudo -n)
  fi
  say "$why: apt-get update"
  "${as_root[@]}" apt-get update -qq >&2 || say "apt-get update failed; using the package lists of this machine"
  chosen=()
  for wanted in "$@"; do
    IFS='|' read -ra names <<<"$wanted"
    for name in "${names[@]}"; do
      if apt-cache show "$name" >/dev/null 2>&1; then chosen+=("$name"); continue 2; fi
    done
    die "$why; the package manager knows none of: ${names[*]}"
  done
  say "$why: installing ${chosen[*]} with apt-get"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${chosen[@]}" >&2 ||
    die "$why; this failed: apt-get install -y ${chosen[*]}"
}

# java_at_least MAJOR: whether such a java is on the PATH.
java_at_least() {
  local version
  version=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
  [ -n "$version" ] && [ "$version" -ge "$1" ]
}

need_java() {
  java_at_least 17 ||
    need_packages "Java 17 or newer is needed" \
      "openjdk-17-jre-headless|openjdk-21-jre-headless|openjdk-25-jre-headless"
}

need_maven() {
  command -v mvn >/dev/null || need_packages "Maven is needed" maven
}
