#!/usr/bin/env bash
# Carries out a Dockerfile without a container engine: docker/replay.sh DOCKERFILE FOLDER [ARG=VALUE…]
#
# Every stage becomes a folder FOLDER/<name or number of the stage>; RUN is done there in a chroot, as the stage's user, with
# its environment and in its working folder, and COPY sees what .dockerignore leaves of the checkout. What only describes an
# image (LABEL, HEALTHCHECK and their like) is read and written to FOLDER/<stage>.image, which `docker/replay.sh enter FOLDER
# STAGE COMMAND…` uses to start a command as a container would. Needs root, debootstrap and, for registries, a network.
#
# Base images cannot be had without an engine. In their stead, with what their own Dockerfiles put into them:
#   debian:12…        debootstrap's smallest Debian 12
#   rust:…-bookworm   the same with gcc, libc6-dev and ca-certificates, and this machine's toolchain of that version
#   nvidia/cuda:…     the same with build-essential, and CUDA_REPLAY, the folder of a toolkit with cuDNN's libraries in its
#                     lib64, as /usr/local/cuda. It is Debian and not Ubuntu.
# All get this machine's certificates, names and resolver, since they reach the network its way. A base is made once.
# FROM, RUN, COPY, ENV, ARG, WORKDIR, USER and SHELL are obeyed as far as the Dockerfiles here use them; any other
# instruction ends the replay.
# shellcheck disable=SC2016 # what stands in single quotes is for the shells inside
set -euo pipefail

fail() {
  printf 'replay: %s\n' "$*" >&2
  exit 1
}

# --- Base images -------------------------------------------------------------------------------------------------------

bootstrap() { # FOLDER
  debootstrap --variant=minbase bookworm "$1" http://deb.debian.org/debian >/dev/null
  cp -L /etc/resolv.conf /etc/hosts "$1/etc/"
}

packages() { # FOLDER PACKAGE…
  local folder=$1
  shift
  in_root "$folder" apt-get update --quiet=2
  in_root "$folder" env DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends "$@" \
    >/dev/null
  cp -L /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
}

toolchain() { # FOLDER VERSION
  local source
  source=$(rustc "+$2" --print sysroot) || fail "this machine has no Rust $2"
  mkdir -p "$1/usr/local/rustup/toolchains" "$1/usr/local/cargo/bin"
  cp -aL "$source" "$1/usr/local/rustup/toolchains/$2"
  local program
  for program in cargo rustc rustdoc; do
    ln -s "../../rustup/toolchains/$2/bin/$program" "$1/usr/local/cargo/bin/$program"
  done
}

make_base() { # IMAGE FOLDER
  local version
  case $1 in
    debian:12*) bootstrap "$2" ;;
    rust:*-bookworm)
      version=${1#rust:}
      bootstrap "$2"
      packages "$2" ca-certificates gcc libc6-dev
      toolchain "$2" "${version%%-*}"
      ;;
    nvidia/cuda:*-devel-*)
      [ -d "${CUDA_REPLAY:-}" ] || fail "$1 needs CUDA_REPLAY, the folder of a CUDA toolkit"
      bootstrap "$2"
      packages "$2" ca-certificates build-essential
      cp -a "$CUDA_REPLAY" "$2/usr/local/cuda"
      # NVIDIA's package puts them there.
      cp -a "$CUDA_REPLAY"/lib64/libcudnn*.so.9 "$2/usr/lib/x86_64-linux-gnu/"
      ;;
    nvidia/cuda:*-base-*) bootstrap "$2" ;;
    *) fail "there is nothing in the stead of $1" ;;
  esac
}

# Variables that a base image brings.
base_environment() { # IMAGE
  environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
  case $1 in
    rust:*) environment=("PATH=/usr/local/cargo/bin:${environment[0]#PATH=}" CARGO_HOME=/usr/local/cargo
      RUSTUP_HOME=/usr/local/rustup) ;;
  esac
}

base() { # IMAGE: prints its folder
  local folder=$roots/base/${1//[:\/]/-}
  if [ ! -d "$folder" ]; then
    rm -rf "$folder.part"
    mkdir -p "$roots/base"
    make_base "$1" "$folder.part" >&2
    mv "$folder.part" "$folder"
  fi
  printf '%s\n' "$folder"
}

# --- Commands in a root ------------------------------------------------------------------------------------------------

# Mounts are of this command alone, so none stays whatever happens to it.
in_root() { # FOLDER COMMAND…
  unshare --mount --pid --fork bash -euo pipefail -c '
    root=$1
    shift
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    exec chroot "$root" "$@"' in_root "$@"
}

start() { # COMMAND…: in the root of the stage, as a process of its image
  in_root "$root" setpriv --reuid="${user%%:*}" --regid="${user##*:}" --clear-groups \
    env --ignore-environment "${passed[@]}" "${environment[@]}" "${build_arguments[@]}" \
    /bin/sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
}

# --- Instructions ------------------------------------------------------------------------------------------------------

# Joins continued lines and leaves out comments and empty lines.
instructions() { # DOCKERFILE
  awk '/^[[:space:]]*#/ || (/^[[:space:]]*$/ && held == "") { next }
    { line = held $0; held = "" }
    line ~ /\\$/ { held = substr(line, 1, length(line) - 1); next }
    { print line }' "$1"
}

# Replaces $NAME and ${NAME} by what ARG and ENV have said so far.
expanded() { # TEXT
  env --ignore-environment "${build_arguments[@]}" "${environment[@]}" bash -c 'eval "printf %s \"${1//\"/\\\"}\""' expanded "$1"
}

# Copies what .dockerignore leaves: lines in order, `*` leaves out everything, `!` brings back, another line leaves out again.
make_context() {
  local line
  mkdir -p "$context"
  while read -r line; do
    case $line in
      '' | '#'* | '*') ;;
      '!'*) mkdir -p "$context/$(dirname "${line#!}")" && cp -a "$checkout/${line#!}" "$context/${line#!}" ;;
      *) (cd "$context" && compgen -G "$line" | xargs --no-run-if-empty rm -r) ;;
    esac
  done <"$checkout/.dockerignore"
}

from() { # IMAGE [AS NAME]
  local image=$1 name=${3:-$number} source
  number=$((number + 1))
  root=$roots/$name
  rm -rf "$root"
  source=$(base "$image")
  cp -a --reflink=auto "$source" "$root"
  base_environment "$image"
  build_arguments=() user=0:0 folder=/ shell=(/bin/sh -c)
}

copy() { # [--from=STAGE] SOURCE… TARGET
  local from=$context
  if [[ $1 == --from=* ]]; then from=$roots/${1#--from=} && shift; fi
  case $1 in --*) fail "COPY $1 is not known here" ;; esac
  local target=${*: -1} source
  [[ $target == /* ]] || target=$folder/$target
  if [[ $target == */ || $target == */. || $# -gt 2 ]]; then mkdir -p "$root$target"; else mkdir -p "$root$(dirname "$target")"; fi
  # A folder's contents are copied, not the folder; everything belongs to root whoever the stage's user is.
  for source in "${@:1:$#-1}"; do
    if [ -d "$from/$source" ]; then mkdir -p "$root$target" && source=$source/.; fi
    cp -a --no-preserve=ownership "$from/$source" "$root$target"
  done
}

obey() { # INSTRUCTION REST
  local word=$1 rest=$2 words=()
  case $word in RUN | HEALTHCHECK | LABEL | SHELL | ENTRYPOINT | CMD) ;; *) read -ra words <<<"$(expanded "$rest")" ;; esac
  case $word in
    FROM) from "${words[@]}" ;;
    ARG) build_arguments+=("$(argument "${words[0]}")") ;;
    ENV) environment+=("${words[@]}") ;;
    WORKDIR) folder=${words[0]} && mkdir -p "$root$folder" ;;
    USER) user=${words[0]} ;;
    SHELL) mapfile -t shell < <(tr -d '[]",' <<<"$rest" | tr -s ' ' '\n') ;;
    COPY) copy "${words[@]}" ;;
    RUN) start "${shell[@]}" "$rest" ;;
    CMD | ENTRYPOINT | EXPOSE | HEALTHCHECK | LABEL | STOPSIGNAL | VOLUME) ;;
    *) fail "$word is not known here" ;;
  esac
}

# An argument as the command line gives it, else with its default.
argument() { # NAME[=DEFAULT]
  local given
  for given in "${given_arguments[@]}"; do
    if [[ $given == "${1%%=*}="* ]]; then printf '%s\n' "$given" && return; fi
  done
  printf '%s\n' "$1"
}

replay() { # DOCKERFILE
  local line seconds
  make_context
  while read -r line; do
    seconds=$SECONDS
    printf '+ %s\n' "$line" >&2
    obey "${line%% *}" "${line#* }" </dev/null
    printf '  %s s\n' "$((SECONDS - seconds))" >&2
    declare -p root user folder environment >"$root.image"
  done < <(instructions "$1")
}

declare -a environment=() build_arguments=() given_arguments=() shell=() passed=()
declare root='' user='' folder='' number=0
checkout=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")

if [ "${1:-}" = enter ]; then
  [ $# -ge 4 ] || fail "usage: docker/replay.sh enter FOLDER STAGE COMMAND…"
  # shellcheck disable=SC1090 # written by a replay
  source "$2/$3.image"
  start "${@:4}"
else
  [ $# -ge 2 ] || fail "usage: docker/replay.sh DOCKERFILE FOLDER [ARG=VALUE…]"
  mkdir -p "$2"
  roots=$(realpath "$2")
  given_arguments=("${@:3}")
  # A slow machine may say how many jobs Cargo has; an image's build says nothing.
  if [ -n "${CARGO_BUILD_JOBS:-}" ]; then passed=("CARGO_BUILD_JOBS=$CARGO_BUILD_JOBS"); fi
  context=$(mktemp -d)
  trap 'rm -rf "$context"' EXIT
  replay "$1"
fi
