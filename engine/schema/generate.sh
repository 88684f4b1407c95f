#!/bin/sh
# Regenerates engine/src/wire/generated/ from the schemas beside this script, as replication/schema/generate.sh does for
# the messages of two-phase commit.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
exec sh "$here/../../replication/schema/generate.sh" "$here" "$here/../src/wire/generated"
