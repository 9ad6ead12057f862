#!/usr/bin/env bash
# Whether the images' files still fit the workspace and each other, in less than a second and without a container engine:
# docker/check.sh. Linters are asked as well where they are installed (hadolint, shellcheck); they are said to be missing
# where not. What the files do is shown by docker/replay.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
files=(docker/Dockerfile docker/Dockerfile.cuda)
faults=0

expect() { # WHAT EXPECTED FOUND
  [ "$2" = "$3" ] && return
  printf 'fault: %s\n  expected: %s\n  found:    %s\n' "$1" "$2" "$3" >&2
  faults=$((faults + 1))
}

of_workspace() { sed -n "s/^$1 = \"\(.*\)\"/\1/p" Cargo.toml | head -n 1; }
# The versions of an image that a file names, in a line.
tags() { sed -n "s#^FROM $1:\([^ ]*\).*#\1#p" "$2" | sort -u | paste -s -d ' '; }

manifests=$(printf '%s\n' crates/*/Cargo.toml)
for file in "${files[@]}"; do
  expect "$file copies every manifest" "$manifests" \
    "$(sed -n 's#^COPY \(crates/[^ ]*/Cargo.toml\) .*#\1#p' "$file" | sort)"
  while read -r manifest target; do
    expect "$file copies $manifest to its place" "$(dirname "$manifest")/" "$target"
  done < <(sed -n 's#^COPY \(crates/[^ ]*/Cargo.toml\) #\1 #p' "$file")
  rust=$(tags rust "$file")
  expect "$file compiles with the workspace's Rust" "$(of_workspace rust-version)" "$(cut -d . -f 1,2 <<<"$rust")"
  expect "$file has the workspace's version" "$(of_workspace version)" \
    "$(sed -n 's/.*image.version="\([^"]*\)".*/\1/p' "$file")"
done

# What is linked in one image must find the same libraries in the other.
expect "the build's Debian (bookworm is 12) is the runtime's" "bookworm 12" \
  "$(tags rust docker/Dockerfile | cut -d - -f 3) $(tags debian docker/Dockerfile | cut -d . -f 1)"
read -r one other <<<"$(tags nvidia/cuda docker/Dockerfile.cuda | tr ' ' '\n' | sed 's/-.*-/-/' | paste -s -d ' ')"
expect "one CUDA and one Ubuntu" "$one" "$other"

# Whatever both files have from the program's arrival on is the same but for what it is called.
common() { sed -n '/^RUN useradd/,/^CMD/p' "$1"; }
expect "both images run alike" "$(common "${files[0]}")" "$(common "${files[1]}")"

while read -r allowed; do
  [ -e "$allowed" ] || expect ".dockerignore lets through what is there" "$allowed" "nothing"
done < <(sed -n 's/^!//p' .dockerignore)
expect "the health check can be started" "executable" "$([ -x docker/health ] && echo executable)"

lint() { # PROGRAM ARGUMENT…
  command -v "$1" >/dev/null || { printf 'NOT CHECKED: %s is not installed\n' "$1" && return; }
  "$@" || faults=$((faults + 1))
}
lint hadolint "${files[@]}"
lint shellcheck docker/health docker/*.sh
if [ "$faults" -gt 0 ]; then exit 1; fi
echo "docker/: fits the workspace"
