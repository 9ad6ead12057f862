#!/bin/sh
# Gives every manifest below the working folder the empty sources that Cargo wants to see, so that `cargo build` compiles
# the dependencies and next to nothing of our own: a layer of an image that stays as long as no manifest changes.
#
# What comes in their stead later must be newer than what was built from them, or Cargo would take the empty crates for the
# real ones: the Dockerfiles delete these sources, copy the real ones and `touch` them.
set -eu

stub() { # FILE
  mkdir -p "$(dirname "$1")"
  echo 'fn main() {}' >"$1"
}

# Files of the targets that a manifest names, relative to it. Those that it does not name need none.
named_targets() { # MANIFEST
  awk -F '"' '
    function finish() { if (kind != "") print path != "" ? path : folder[kind] "/" name ".rs"; kind = name = path = "" }
    BEGIN { folder["bench"] = "benches"; folder["bin"] = "src/bin"; folder["example"] = "examples"; folder["test"] = "tests" }
    /^\[/ { finish() }
    /^\[\[(bench|bin|example|test)\]\]/ { kind = $0; gsub(/[][]/, "", kind) }
    /^name *=/ { name = $2 }
    /^path *=/ { path = $2 }
    END { finish() }
  ' "$1"
}

for manifest in crates/*/Cargo.toml; do
  crate=$(dirname "$manifest")
  stub "$crate/src/lib.rs"
  # Dependencies of a build script are compiled only where there is one.
  if grep -q '^\[build-dependencies\|^build *=' "$manifest"; then stub "$crate/build.rs"; fi
  named_targets "$manifest" | while read -r file; do stub "$crate/$file"; done
done
