#!/usr/bin/env bash
# curl: no parser of its own; shows the data lines as they come. Further arguments go to curl.
url=$1; shift
printf '{"version": "%s"}\n' "$(curl --version | sed -n '1s/^\(curl [^ ]*\).*/\1/p')"
curl -sN "$@" "$url" | sed -un 's/^data: \(.*\)/{"data": "\1"}/p'
status=${PIPESTATUS[0]}
if [ "$status" = 0 ]; then echo '{"end": "exit status 0"}'
else echo "{\"error\": \"exit status $status\"}"; fi
